# SPDX-License-Identifier: Apache-2.0
"""Measures planning on two cores: offline, over gRPC, by engine, and beside fine-tuning.

usage: python -m benchmarks.planning --json benchmarks/results/planning.json \
           --report docs/results/planning.md

Needs the extra ``cloud``; Ray is measured where the extra ``ray`` is installed.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.planning_page import draw, page
from benchmarks.planning_run import Plannings, PlanningSettings
from benchmarks.reports import source_option, write_page
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import PocketRecError

__all__ = ["main"]

_DEFAULT = PlanningSettings()
_PATH = click.Path(path_type=Path)


def _numbers(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter("expected numbers between commas, such as 1,16") from error


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=_DEFAULT.rounds, show_default=True)
@click.option("--seconds", type=float, default=_DEFAULT.seconds, help="Of one measurement.")
@click.option(
    "--clients",
    default=",".join(str(number) for number in _DEFAULT.clients),
    callback=_numbers,
    show_default=True,
    help="How many ask at once.",
)
@click.option("--users", type=click.IntRange(1), default=_DEFAULT.users, show_default=True)
@click.option("--average-bits", type=float, default=_DEFAULT.average_bits, show_default=True)
@click.option("--shape", default=_DEFAULT.shape, show_default=True, help="D x L x blocks.")
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True)
@click.option("--report", type=_PATH, help="Write the page there.")
@source_option
@json_option
def main(
    *,
    rounds: int,
    seconds: float,
    clients: tuple[int, ...],
    users: int,
    average_bits: float,
    shape: str,
    seed: int,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Measure planning for a fleet against its targets."""
    if source is not None:
        result = json.loads(source.read_text())
    else:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        try:
            settings = PlanningSettings(
                rounds=rounds,
                seconds=seconds,
                clients=clients,
                users=users,
                average_bits=average_bits,
                shape=shape,
                seed=seed,
            )
            with Progress(
                *columns,
                TextColumn("{task.description}"),
                console=stderr_console(),
                transient=True,
                refresh_per_second=1,
            ) as progress:
                result = Plannings(settings, progress).run()
        except PocketRecError as error:
            raise click.ClickException(str(error)) from error
    if report is not None:
        write_page(report, page(result))
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


if __name__ == "__main__":
    main()
