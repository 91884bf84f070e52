# SPDX-License-Identifier: Apache-2.0
"""What every benchmark with a page of its own does about it."""

from __future__ import annotations

from pathlib import Path

import click

from pocketrec.errors import MissingExtraError
from pocketrec.files import write_atomically

__all__ = ["prepare_plots", "source_option", "split_list", "write_page"]

source_option = click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: draw what was written with --json before.",
)
"""Adds ``--from``, a result file to draw again; passed as ``source``."""


def split_list(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """Return the names in a text with commas between them: the callback of such an option."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def write_page(path: Path, page: str) -> None:
    """Write a page, and the folder that it goes to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())


def prepare_plots() -> None:
    """Let matplotlib draw into files, without a screen.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "plots need matplotlib: run `pip install 'pocketrec[plots]'`, or leave --report out"
        ) from error
    mpl.use("Agg")
