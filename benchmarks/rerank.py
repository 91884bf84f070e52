# SPDX-License-Identifier: Apache-2.0
"""Times re-ranking against the runtimes an engineer would otherwise export to.

usage: python -m benchmarks.rerank --json benchmarks/results/rerank.json \
           --report docs/results/rerank.md

One user, one thread, 100 candidates, the best 10. pocketrec takes one new event and ranks
(``pocketrec-step``), or starts from nothing with a whole window (``pocketrec-cold``); a peer
runs the whole window through the same network with the same weights. Every measurement
is a fresh process, and methods take turns: a shared machine is faster or slower by the
minute, and that must hit all alike.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.reports import source_option, split_list, write_page
from benchmarks.rerank_page import draw, page
from benchmarks.rerank_run import CONFIGS, METHODS, Benchmark, Settings
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import PocketRecError

__all__ = ["main"]


_PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--methods", default=",".join(METHODS), callback=split_list, help="Separated by commas."
)
@click.option(
    "--configs", default=",".join(CONFIGS), callback=split_list, help="D x L x blocks each."
)
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Rounds.")
@click.option("--min-seconds", type=click.FloatRange(0), default=0.5, show_default=True)
@click.option("--min-runs", type=click.IntRange(1), default=200, show_default=True)
@click.option("--items", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--work", type=_PATH, help="Keep built models here; a temporary folder if not given.")
@click.option("--report", type=_PATH, help="Write the page there, such as docs/results/rerank.md.")
@source_option
@json_option
def main(
    *,
    methods: tuple[str, ...],
    configs: tuple[str, ...],
    repeat: int,
    min_seconds: float,
    min_runs: int,
    items: int,
    seed: int,
    work: Path | None,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Time re-ranking against other runtimes."""
    if source is not None:
        result = json.loads(source.read_text())
    else:
        try:
            settings = Settings(
                configs=configs,
                methods=methods,
                repeat=repeat,
                min_seconds=min_seconds,
                min_runs=min_runs,
                n_items=items,
                seed=seed,
            )
            result = _measured(settings, work)
        except PocketRecError as error:
            raise click.ClickException(str(error)) from error
    if report is not None:
        write_page(report, page(result))
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


def _measured(settings: Settings, work: Path | None) -> dict[str, Any]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with (
        tempfile.TemporaryDirectory() as temporary,
        Progress(*columns, console=stderr_console(), transient=True) as progress,
    ):
        return Benchmark(settings, work or Path(temporary), progress).run()


if __name__ == "__main__":
    main()
