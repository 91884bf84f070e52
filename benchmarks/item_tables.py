# SPDX-License-Identifier: Apache-2.0
"""Measures scoring candidates from compressed item tables, in NumPy and in ONNX Runtime.

usage: python -m benchmarks.item_tables --json benchmarks/results/item_tables.json \
           --report docs/results/item_tables.md

Needs the extra ``cloud``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.item_tables_page import draw, page
from benchmarks.item_tables_run import TableSettings, measure
from benchmarks.reports import source_option, write_page
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import PocketRecError

__all__ = ["main"]

_DEFAULT = TableSettings()


@click.command()
@click.option(
    "--items",
    type=click.IntRange(1),
    multiple=True,
    default=_DEFAULT.items,
    show_default=True,
    help="Items of a catalogue; may be repeated.",
)
@click.option("--dim", type=click.IntRange(1), default=_DEFAULT.embedding_dim, show_default=True)
@click.option(
    "--candidates", type=click.IntRange(1), default=_DEFAULT.n_candidates, show_default=True
)
@click.option("--rounds", type=click.IntRange(1), default=_DEFAULT.rounds, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=_DEFAULT.seed, show_default=True)
@click.option("--report", type=click.Path(path_type=Path), help="Write the page there.")
@source_option
@json_option
def main(
    *,
    items: tuple[int, ...],
    dim: int,
    candidates: int,
    rounds: int,
    seed: int,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Measure how long candidates take to score, by kind of item table and by way."""
    if source is not None:
        result = json.loads(source.read_text())
    else:
        try:
            settings = TableSettings(
                items=items, embedding_dim=dim, n_candidates=candidates, rounds=rounds, seed=seed
            )
            with stderr_console().status("measuring") as status:
                result = measure(settings, status.update)
        except PocketRecError as error:
            raise click.ClickException(str(error)) from error
    if report is not None:
        write_page(report, page(result))
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


if __name__ == "__main__":
    main()
