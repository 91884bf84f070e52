# SPDX-License-Identifier: Apache-2.0
"""Trains personal slices of a wide pool and everything they are measured against.

usage: python -m benchmarks.personal --data ml-100k/ml-100k.inter --seeds 5 \
           --json benchmarks/results/personal.json --report docs/results/personal.md

One record per dataset, method and seed. Everything is chosen on validation and reported on
test, by full ranking without seen items. Interrupted, it goes on where it was; the answers of
all datasets that lie in the work folder are collected. Real data stays where it is: give its
path.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.personal_page import draw, page, plots
from benchmarks.personal_run import PersonalSettings, collect, run
from benchmarks.personal_settings import SETUPS
from benchmarks.personal_unit import BACKBONES
from benchmarks.reports import split_list, write_page
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError, PocketRecError

__all__ = ["main"]


_PATH = click.Path(path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FILE, multiple=True, help="File of interactions; may be repeated.")
@click.option("--groups", default=",".join(SETUPS), callback=split_list)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--work", type=_PATH, default=Path("work/personal"), show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--stop-after", type=click.FloatRange(0), help="Seconds; begin nothing afterwards.")
@click.option("--max-epochs", type=click.IntRange(0), default=0, help="For trials.")
@click.option(
    "--window", type=click.IntRange(0), default=0, help="Events the re-ranker reads; 0 = usual."
)
@click.option("--backbone", type=click.Choice(BACKBONES), default="sasrec", show_default=True)
@click.option("--report", type=_PATH, help="Write the page there, and its plots beside it.")
@click.option("--from", "source", type=_FILE, help="Train nothing: draw what --json wrote.")
@json_option
def main(
    *,
    data: tuple[Path, ...],
    groups: tuple[str, ...],
    seeds: int,
    work: Path,
    threads: int,
    stop_after: float | None,
    max_epochs: int,
    window: int,
    backbone: str,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Train personal slices, and measure them beside their controls."""
    import torch

    torch.set_num_threads(threads)
    try:
        if source is not None:
            result = json.loads(source.read_text())
        elif data:
            settings = PersonalSettings(
                data=data,
                groups=groups,
                seeds=seeds,
                work=work,
                stop_after_s=stop_after,
                max_epochs=max_epochs,
                window=window,
                backbone=backbone,
            )
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            with Progress(*columns, console=stderr_console(), transient=True) as progress:
                result = run(settings, progress)
        elif work.is_dir():
            result = collect(work)
        else:
            raise ConfigError(f"expected --data, --from, or answers in {work}")
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            pictures = plots(result, report.parent)
            write_page(report, page(result, pictures))
    except PocketRecError as error:
        raise click.ClickException(str(error)) from error
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


if __name__ == "__main__":
    main()
