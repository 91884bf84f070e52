# SPDX-License-Identifier: Apache-2.0
"""Measures compressed tables of users and items on LightGCN and MF, against the literature.

usage: python -m benchmarks.codebook --data amazon-beauty/split-801010 --seeds 3 \
           --json benchmarks/results/codebook.json --report docs/results/codebook.md

The folder holds ``train.txt``, ``val.txt`` and ``test.txt``, one user per line, numbers from 0;
without ``val.txt`` the union of the other two is split 80/10/10. Nothing is downloaded. A run
goes on where the result file ends. Needs the extras ``cloud`` and ``baselines``; pictures need
``plots``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.codebook_methods import METHODS
from benchmarks.codebook_page import draw, page
from benchmarks.codebook_plots import draw_all
from benchmarks.codebook_run import SUITES, CodebookSettings, run
from benchmarks.reports import source_option, write_page
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import PocketRecError

__all__ = ["main"]

_PATH = click.Path(path_type=Path)
_DEFAULT = CodebookSettings(data=Path())


def _names(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--suites", default="lightgcn", callback=_names, help=f"Of {','.join(SUITES)}.")
@click.option("--methods", default=",".join(METHODS), callback=_names, help="All unless said.")
@click.option("--seeds", type=click.IntRange(1), default=_DEFAULT.seeds, show_default=True)
@click.option("--rows", type=click.IntRange(2), default=_DEFAULT.n_rows, show_default=True)
@click.option("--learning-rate", type=float, default=_DEFAULT.learning_rate, show_default=True)
@click.option("--decay", type=float, default=_DEFAULT.decay, show_default=True)
@click.option("--batch-size", type=int, default=_DEFAULT.batch_size, show_default=True)
@click.option("--max-epochs", type=int, default=_DEFAULT.max_epochs, show_default=True)
@click.option("--patience", type=int, default=_DEFAULT.patience, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=_DEFAULT.threads, show_default=True)
@click.option(
    "--work", type=_PATH, default=_DEFAULT.work, help="For answers per user.", show_default=True
)
@click.option("--report", type=_PATH, help="Write the page there, pictures beside it.")
@source_option
@json_option
def main(
    *,
    data: Path | None,
    suites: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: int,
    rows: int,
    learning_rate: float,
    decay: float,
    batch_size: int,
    max_epochs: int,
    patience: int,
    threads: int,
    work: Path,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Compare compressed tables at equal rows and by bytes."""
    try:
        if source is not None:
            result = json.loads(source.read_text(encoding="utf-8"))
        elif data is None:
            raise click.UsageError("expected --data FOLDER or --from FILE, found neither")
        else:
            settings = CodebookSettings(
                data=data,
                suites=suites,
                methods=methods,
                seeds=seeds,
                n_rows=rows,
                learning_rate=learning_rate,
                decay=decay,
                batch_size=batch_size,
                max_epochs=max_epochs,
                patience=patience,
                work=work,
                threads=threads,
            )
            target = None if json_path in {None, "-"} else Path(str(json_path))
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            with Progress(
                *columns,
                TextColumn("{task.description}"),
                console=stderr_console(),
                transient=True,
                refresh_per_second=1,
            ) as progress:
                result = run(settings, target, progress)
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            write_page(report, page(result, draw_all(result, report.parent)))
    except PocketRecError as error:
        raise click.ClickException(str(error)) from error
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


if __name__ == "__main__":
    main()
