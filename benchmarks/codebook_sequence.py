# SPDX-License-Identifier: Apache-2.0
"""Compresses the item tables of trained backbones in every way, at several budgets.

usage: python -m benchmarks.codebook_sequence --data beauty.txt --run runs/beauty \
           --json benchmarks/results/codebook_sequence.json --report docs/results/codebook_sequence.md

``--data`` and ``--run`` may be repeated, in pairs; a run is what ``pocketrec train`` left. One
record per data set, method and budget; one that is in the file already is not measured again.
Everything is chosen on validation and reported on test. faiss comes with the extra ``baselines``;
without it its rows are left out.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from benchmarks.codebook_sequence_page import draw, page, plot
from benchmarks.codebook_sequence_run import Settings, Subject, run
from benchmarks.reports import source_option, write_page
from pocketrec.console import emit, json_option
from pocketrec.errors import ConfigError

__all__ = ["main"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_RUN = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FILE, multiple=True, help="File of interactions.")
@click.option("--run", "runs", type=_RUN, multiple=True, help="What was trained on it.")
@click.option("--name", "names", multiple=True, help="Of the data set, for the records.")
@click.option(
    "--ratio", "ratios", type=float, multiple=True, default=(8, 16, 32), show_default=True
)
@click.option("--method", "methods", multiple=True, help="Only these; all when left out.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--max-minutes", type=click.FloatRange(0, min_open=True), help="Of a fine-tuning.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--report", type=click.Path(path_type=Path), help="Write the page there.")
@source_option
@json_option
def main(
    *,
    data: tuple[Path, ...],
    runs: tuple[Path, ...],
    names: tuple[str, ...],
    ratios: tuple[float, ...],
    methods: tuple[str, ...],
    epochs: int,
    max_minutes: float | None,
    seed: int,
    threads: int,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Measure what compressed item tables cost in quality."""
    if source is not None:
        result = json.loads(source.read_text())
    else:
        if not len(data) == len(runs) == len(names) > 0:
            raise ConfigError("expected --data, --run and --name in threes")
        torch.set_num_threads(threads)
        subjects = [
            Subject(name=name, data=file, run=folder)
            for name, file, folder in zip(names, data, runs, strict=True)
        ]
        settings = Settings(
            ratios=ratios, methods=methods, epochs=epochs, max_minutes=max_minutes, seed=seed
        )
        out = None if json_path in {None, "-"} else Path(str(json_path))
        result = run(subjects, settings, out)
    if report is not None:
        pictures = plot(result, report.parent)
        write_page(report, page(result, pictures))
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


if __name__ == "__main__":
    main()
