# SPDX-License-Identifier: Apache-2.0
"""Plants a bad layer in trained models, and asks ``debug layers`` who is to blame.

usage: python -m benchmarks.blame --build sasrec=work/demo/build --build caser=work/caser/build \
           --json benchmarks/results/blame.json --report docs/results/blame.md

Every coded layer in turn gets 2 bits, all others 8, then 4: is it found, and is the gain in
quality that 8 bits would bring predicted as it is measured? A build is what ``bundle build``
leaves: the bundle and the held-out users.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.blame_page import draw, page
from benchmarks.environment import read_environment
from benchmarks.reports import source_option, write_page
from pocketrec.console import emit, json_option, stderr_console
from pocketrec_device.debugging.blame import BlameOptions, LayerBlame, find_blame
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.layers import split_by_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["main"]

OTHER_BITS = (8, 4)
_PLANTED_BITS = 2


@click.command()
@click.option("--build", "builds", multiple=True, metavar="NAME=FOLDER", help="May be repeated.")
@click.option("--sample", type=click.IntRange(1), default=500, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--report", type=click.Path(path_type=Path), help="Write the page there.")
@source_option
@json_option
def main(
    *,
    builds: tuple[str, ...],
    sample: int,
    seed: int,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Plant a bad layer everywhere, and compare what is found with what was planted."""
    if source is not None:
        result = json.loads(source.read_text())
    else:
        if not builds or not all("=" in build for build in builds):
            raise click.UsageError("expected --build NAME=FOLDER, or --from FILE")
        result = _measure(dict(build.split("=", 1) for build in builds), sample, seed)
    if report is not None:
        write_page(report, page(result))
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


def _measure(builds: dict[str, str], sample: int, seed: int) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    models = {}
    with Progress(*columns, TimeElapsedColumn(), console=stderr_console()) as progress:
        for name, folder in builds.items():
            models[name] = _model(name, Path(folder), sample, seed, progress)
    options = {"n_sampled": sample, "seed": seed, "planted_bits": _PLANTED_BITS}
    return {"options": options, "models": models, "environment": read_environment()}


def _model(name: str, folder: Path, sample: int, seed: int, progress: Progress) -> dict[str, Any]:
    bundle = BundleFolder.open(folder / "bundle")
    cases = EvaluationCases.from_bytes((folder / "cases.safetensors").read_bytes())
    layers = bundle.manifest.layers
    plan = bundle.read_default_plan().widths
    task = progress.add_task(name, total=len(OTHER_BITS) * len(layers) + 2)
    planted, plans = [], []
    for others in OTHER_BITS:
        for layer in layers:
            widths = np.full_like(plan, others)
            split_by_layer(widths, layers)[layer.name][:] = _PLANTED_BITS
            options = BlameOptions(n_sampled=sample, n_measured=1, seed=seed)
            first = find_blame(bundle, widths, cases, options=options).layers[0]
            planted.append({"planted": layer.name, "others": others, "first": _row(first)})
            progress.advance(task)
    for plan_name, widths in (("2 bits everywhere", np.full_like(plan, 2)), ("default", plan)):
        plans.append({"plan": plan_name, **_plan(bundle, widths, cases, sample, seed)})
        progress.advance(task)
    return {
        "kind": bundle.manifest.backbone.kind,
        "embedding_dim": bundle.manifest.backbone.embedding_dim,
        "window": bundle.manifest.backbone.window,
        "n_users": cases.n_cases,
        "n_items": cases.n_items,
        "planted": planted,
        "plans": plans,
    }


def _plan(
    bundle: BundleFolder,
    widths: NDArray[np.uint8],
    cases: EvaluationCases,
    sample: int,
    seed: int,
) -> dict[str, Any]:
    options = BlameOptions(n_sampled=sample, n_measured=len(bundle.manifest.layers), seed=seed)
    report = find_blame(bundle, widths, cases, options=options)
    return {
        "ndcg": report.ndcg.mean,
        "ndcg_best": report.ndcg_best.mean,
        "overlap": report.overlap.mean,
        "layers": [_row(layer) for layer in report.layers],
    }


def _row(layer: LayerBlame) -> dict[str, Any]:
    return {
        "name": layer.name,
        "blame": layer.blame,
        "sqnr_db": layer.output.sqnr_db,
        "predicted": None if layer.predicted is None else asdict(layer.predicted),
        "measured": None if layer.measured is None else asdict(layer.measured),
    }


if __name__ == "__main__":
    main()
