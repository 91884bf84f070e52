# SPDX-License-Identifier: Apache-2.0
"""What a slice of a wide pool costs on a device today, beside no pool and a whole one.

usage: python -m benchmarks.personal_device --work work/personal
       python -m benchmarks.personal_device --shape 128x200x2

Weights are random; only sizes and times are measured. ``personal`` shows what this leaves in
its work folder; other shapes are only printed.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.sampling import sample
from benchmarks.shapes import Shape
from pocketrec.files import write_atomically

if TYPE_CHECKING:
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["DEVICE_FILE", "device_costs", "main"]

DEVICE_FILE = "device.json"
SHAPE = Shape(d=64, window=20, blocks=2)
COMPUTES = ("fp32", "packed")
_CASES = (
    ("no pool, 2 bits", 1, False),
    ("a slice of the pool", 4, True),
    ("whole pool, 2 bits", 4, False),
)


def device_costs(
    shape: Shape = SHAPE, *, min_runs: int = 300, min_seconds: float = 1.0
) -> list[dict[str, Any]]:
    """Measure every case under every kind of kernel.

    Args:
        shape: Of the model; a slice has D channels of each pool of 4 D.
        min_runs: Calls of each kind at least.
        min_seconds: Time of each at least.

    Returns:
        ``case``, ``compute``, ``resident_bytes`` of the coded matrices as they are kept,
        ``folded_bytes`` that would do, ``rerank_us``, ``observe_us`` and ``history_us``, which
        is a whole window at once, medians.
    """
    from benchmarks.seeded_bundle import write_seeded_bundle

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for multiplier in sorted({multiplier for _, multiplier, _ in _CASES}):
            path = Path(folder) / str(multiplier)
            bundle = write_seeded_bundle(path, shape, ffn_multiplier=multiplier)
            for case, own, is_slice in _CASES:
                if own == multiplier:
                    plan = _plan(bundle.read_default_plan(), shape.d if is_slice else 0)
                    job = {"min_runs": min_runs, "min_seconds": min_seconds}
                    found += [
                        {"case": case, "compute": compute, **_measure(bundle, plan, compute, job)}
                        for compute in COMPUTES
                    ]
    return found


def _plan(plan: Plan, n_kept: int) -> Plan:
    """Return a plan of 2 bits; with ``n_kept``, all but so many channels of a pool are off."""
    from pocketrec_quantization.budget import coded_bytes
    from pocketrec_quantization.layers import split_by_layer
    from pocketrec_quantization.levels import LevelTable

    levels = LevelTable((0, 0, 2, 2))
    codes = np.full(plan.codes.shape, 2, np.uint8)
    rng = np.random.default_rng(0)
    for name, part in split_by_layer(codes, plan.layers).items():
        if n_kept and name.endswith("ffn1"):
            part[rng.permutation(part.size)[n_kept:]] = 1
    budget = coded_bytes(plan.layers, levels.widths(codes))
    return replace(plan, levels=levels, codes=codes, budget_bytes=budget)


def _measure(bundle: BundleFolder, plan: Plan, compute: str, job: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.swappable_runtime import SwappableRuntime
    from pocketrec_device.bench.sizes import resident_weight_bytes
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.backbone import layer_feeds
    from pocketrec_quantization.folding import resident_bytes
    from pocketrec_quantization.plan import encode_plan

    runtime = SwappableRuntime(bundle, EngineSettings(compute=compute, swap="rebuild"))
    runtime.adopt(runtime.engine_under(encode_plan(plan, None)))
    ids = [f"item-{number}" for number in range(1, 1001)]
    history = ids[: bundle.manifest.backbone.window]

    def start() -> None:
        runtime.reset()
        runtime.observe_many(history)

    start()
    kept = [
        {
            "name": layer.name,
            "stored": {str(bits): n for bits, n in layer.stored.items()},
            "n_elements": layer.n_elements,
        }
        for layer in runtime.report()
    ]
    return {
        "resident_bytes": resident_weight_bytes(plan.layers, kept),
        "folded_bytes": resident_bytes(
            layer_feeds(bundle.manifest.backbone), plan.layers, plan.widths
        ),
        "rerank_us": sample(lambda: runtime.rerank(ids[:100], 10), job)["p50_us"],
        "observe_us": sample(lambda: runtime.observe(ids[0]), job)["p50_us"],
        "history_us": sample(start, {**job, "min_runs": 1})["p50_us"],
    }


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("work/personal"))
@click.option(
    "--shape", "shape_text", default=SHAPE.name, show_default=True, help="D x L x blocks."
)
def main(work: Path, shape_text: str) -> None:
    """Measure; the usual shape is left where ``personal`` reads it."""
    shape = Shape.parse(shape_text)
    costs = json.dumps(device_costs(shape))
    click.echo(costs)
    if shape == SHAPE:
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(work / DEVICE_FILE, costs.encode())


if __name__ == "__main__":
    main()
