# SPDX-License-Identifier: Apache-2.0
"""The command ``bench report``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from pocketrec.console import emit, json_option
from pocketrec.files import write_atomically

__all__ = ["report"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("files", metavar="RESULT.json...", nargs=-1, required=True, type=_FILE)
@click.option("--html", type=_OUT, help="One page that needs no network.")
@click.option("--markdown", type=_OUT, help="The same tables as Markdown.")
@json_option
def report(
    *, files: tuple[Path, ...], html: Path | None, markdown: Path | None, json_path: str | None
) -> None:
    """Turn results of bench run, and profiles of debug profile, into a report.

    Without --html and --markdown, Markdown is printed.
    """
    from pocketrec_device.bench_report.writing import html_bytes, markdown_bytes, read_content

    content = read_content(files)
    written = {}
    for path, make in ((html, html_bytes), (markdown, markdown_bytes)):
        if path is not None:
            data = make(content)
            write_atomically(path, data)
            written[str(path)] = len(data)
    result = {
        "n_results": len(content.results),
        "n_profiles": len(content.profiles),
        "n_cells": len(content.cells),
        "written": [{"path": path, "n_bytes": n_bytes} for path, n_bytes in written.items()],
    }

    def render(console: Console) -> None:
        for path, n_bytes in written.items():
            console.print(f"{path}: {n_bytes:,} bytes", markup=False, soft_wrap=True)
        if not written:
            console.print(markdown_bytes(content).decode(), markup=False, soft_wrap=True)

    emit(result, render=render, json_path=json_path)
