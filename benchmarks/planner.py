# SPDX-License-Identifier: Apache-2.0
"""Trains personal planners and everything they are measured against.

usage: python -m benchmarks.planner --data ml-100k/ml-100k.inter --seeds 5 \
           --json benchmarks/results/planner.json --report docs/results/planner.md

One record per dataset, backbone, initialisation, method and seed. Everything is chosen on
validation and reported on test, by full ranking without seen items. Interrupted, it goes on
where it was. Real data stays where it is: give its path.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.planner_page import draw, page, plots
from benchmarks.planner_run import PlannerSettings, run
from benchmarks.planner_settings import BACKBONES, INITS
from benchmarks.planner_unit import GROUPS, PEER_GROUP
from benchmarks.reports import split_list, write_page
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import PocketRecError

__all__ = ["main"]


_PATH = click.Path(path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FILE, multiple=True, help="File of interactions; may be repeated.")
@click.option("--backbone", "backbones", default=",".join(BACKBONES), callback=split_list)
@click.option("--init", "inits", default=",".join(INITS), callback=split_list)
@click.option("--groups", default=",".join((*GROUPS, PEER_GROUP)), callback=split_list)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--work", type=_PATH, default=Path("work/planner"), show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="At a time.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Per job.")
@click.option("--stop-after", type=click.FloatRange(0), help="Seconds; begin nothing afterwards.")
@click.option("--max-epochs", type=click.IntRange(0), default=0, help="For trials.")
@click.option("--report", type=_PATH, help="Write the page there, and its plots beside it.")
@click.option("--from", "source", type=_FILE, help="Train nothing: draw what --json wrote.")
@json_option
def main(
    *,
    data: tuple[Path, ...],
    backbones: tuple[str, ...],
    inits: tuple[str, ...],
    groups: tuple[str, ...],
    seeds: int,
    work: Path,
    device: str,
    jobs: int,
    threads: int,
    stop_after: float | None,
    max_epochs: int,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Train planners, and measure them beside their controls."""
    try:
        if source is not None:
            result = json.loads(source.read_text())
        else:
            settings = PlannerSettings(
                data=data,
                backbones=backbones,
                inits=inits,
                groups=groups,
                seeds=seeds,
                work=work,
                device=device,
                jobs=jobs,
                threads=threads,
                stop_after_s=stop_after,
                max_epochs=max_epochs,
            )
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            with Progress(*columns, console=stderr_console(), transient=True) as progress:
                result = run(settings, progress)
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            pictures = plots(result, report.parent)
            write_page(report, page(result, pictures))
    except PocketRecError as error:
        raise click.ClickException(str(error)) from error
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


if __name__ == "__main__":
    main()
