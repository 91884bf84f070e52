# SPDX-License-Identifier: Apache-2.0
"""Measures what the device runtime costs beside ranking: memory, start, swaps and slates.

usage: python -m benchmarks.runtime_costs --json benchmarks/results/runtime.json \
           --report docs/results/runtime.md

Every figure comes from processes of its own, in turns, and stands beside its target. Needs
Linux: memory is read from ``/proc``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.reports import source_option, split_list, write_page
from benchmarks.runtime_costs_page import draw, page
from benchmarks.runtime_costs_run import CONFIGS, LARGE, Costs, CostSettings
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import PocketRecError

__all__ = ["main"]


_PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--configs", default=",".join(CONFIGS), callback=split_list, help="D x L x blocks each."
)
@click.option("--large", default=LARGE, show_default=True, help="Whose weights are looked for.")
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Rounds.")
@click.option("--min-seconds", type=click.FloatRange(0), default=0.5, show_default=True)
@click.option("--min-runs", type=click.IntRange(1), default=50, show_default=True)
@click.option("--items", type=click.IntRange(100), default=5000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--report", type=_PATH, help="Write the page there, such as docs/results/runtime.md.")
@source_option
@json_option
def main(
    *,
    configs: tuple[str, ...],
    large: str,
    repeat: int,
    min_seconds: float,
    min_runs: int,
    items: int,
    seed: int,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Measure the runtime's memory, start, swaps and slates against their targets."""
    if source is not None:
        result = json.loads(source.read_text())
    else:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        try:
            settings = CostSettings(
                configs=configs,
                large=large,
                repeat=repeat,
                min_seconds=min_seconds,
                min_runs=min_runs,
                n_items=items,
                seed=seed,
            )
            with Progress(
                *columns, console=stderr_console(), transient=True, refresh_per_second=1
            ) as progress:
                result = Costs(settings, progress).run()
        except PocketRecError as error:
            raise click.ClickException(str(error)) from error
    if report is not None:
        write_page(report, page(result))
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


if __name__ == "__main__":
    main()
