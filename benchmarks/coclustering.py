# SPDX-License-Identifier: Apache-2.0
"""Times co-clustering, ours and scikit-network's Louvain, on the same graphs in the same run.

usage: python -m benchmarks.coclustering --data gowalla --edges 100000 --edges 1000000 \
           --json benchmarks/results/coclustering.json --report docs/results/coclustering.md

Needs the extras ``cloud`` and ``baselines``, and ``plots`` for the report.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from benchmarks.coclustering_page import draw, page
from benchmarks.coclustering_plots import draw_all
from benchmarks.coclustering_run import Coclusterings, CoclusteringSettings
from benchmarks.reports import source_option, write_page
from pocketrec.console import emit, json_option, json_text, stderr_console
from pocketrec.errors import PocketRecError
from pocketrec.files import write_atomically

__all__ = ["main"]

_DEFAULT = CoclusteringSettings(edges=(1,))
_PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A file of lines `user item item ...`, or a folder with train.txt and test.txt, of "
    "whose union 80 % are clustered. May be repeated.",
)
@click.option(
    "--edges",
    multiple=True,
    type=click.IntRange(1),
    help="Of a generated graph with heavy tails. May be repeated.",
)
@click.option("--rounds", type=click.IntRange(1), default=_DEFAULT.rounds, show_default=True)
@click.option(
    "--resolution",
    type=float,
    default=_DEFAULT.resolution,
    show_default=True,
    help="Of Louvain, and where objectives are compared.",
)
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True)
@click.option("--report", type=_PATH, help="Write the page there, and its pictures beside it.")
@source_option
@json_option
def main(
    *,
    data: tuple[Path, ...],
    edges: tuple[int, ...],
    rounds: int,
    resolution: float,
    seed: int,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Measure co-clustering against Louvain, but no graph that the file of --json has already."""
    try:
        if source is not None:
            result = json.loads(source.read_text())
        else:
            settings = CoclusteringSettings(
                data=data, edges=edges, rounds=rounds, resolution=resolution, seed=seed
            )
            result = _measure(settings, json_path)
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            write_page(report, page(result, draw_all(result, report.parent)))
    except PocketRecError as error:
        raise click.ClickException(str(error)) from error
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


def _measure(settings: CoclusteringSettings, json_path: str | None) -> dict[str, object]:
    """Measure, keeping every graph's records in the file as soon as they are there."""
    file = None if json_path in {None, "-"} else Path(str(json_path))
    earlier = []
    if file is not None and file.exists():
        earlier = json.loads(file.read_text())["records"]

    def keep(result: dict[str, object]) -> None:
        if file is not None:
            write_atomically(file, f"{json_text(result)}\n".encode())

    with Progress(
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=stderr_console(),
        transient=True,
        refresh_per_second=1,
    ) as progress:
        return Coclusterings(settings, progress, earlier=earlier, keep=keep).run()


if __name__ == "__main__":
    main()
