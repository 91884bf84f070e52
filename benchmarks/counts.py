# SPDX-License-Identifier: Apache-2.0
"""Counts what a change can make worse without any clock: operators, bytes, Python calls.

usage: python -m benchmarks.counts [--update]

Everything is drawn from a seed, so equal sources give equal counts on every machine; what
is committed in ``benchmarks/expected_counts.json`` is compared with what is counted, and
``--update`` writes it anew. A count that changed is no fault: look at it, and commit the new
one with the change that made it. Counted are

* operators of every function as the device lowers it, per kind of backbone, kernel and speed
  preset, and the bytes that the function takes as weights;
* bytes of the parts of a bundle and of a plan;
* calls of our own Python functions that one event, one ranking and a cold start make.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

from benchmarks.seeded_bundle import write_seeded_bundle
from benchmarks.shapes import Shape
from pocketrec.console import emit, json_option, json_text
from pocketrec.files import write_atomically
from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_device.backends.attention_histories import AttentionHistories
from pocketrec_device.bench.scenarios import Effort, single
from pocketrec_device.engine import build_engine
from pocketrec_device.lowering.channels import FrozenStore
from pocketrec_device.lowering.kernels import KERNELS
from pocketrec_device.lowering.lowered_graph import LoweredGraph, Template
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.attention_bias import stack_relative_bias
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.bundle import DEFAULT_PLAN, MANIFEST_FILE, STEP
from pocketrec_quantization.graph_file import parse_graph
from pocketrec_quantization.levels import SPEED_PRESETS, preset_levels
from pocketrec_quantization.testing import tiny_frozen, tiny_plan

__all__ = ["EXPECTED", "count_everything", "differences", "main"]

EXPECTED = Path(__file__).with_name("expected_counts.json")
SHAPE = Shape(d=64, window=50, blocks=2, n_items=1200)
BACKBONES = (
    BackboneConfig(
        kind="sasrec", embedding_dim=64, n_blocks=2, n_heads=2, window=50, ffn_multiplier=1
    ),
    BackboneConfig(
        kind="caser", embedding_dim=64, window=5, max_height=5, n_horizontal=16, n_vertical=4
    ),
)
_OUR_PACKAGES = ("pocketrec", "pocketrec_device", "pocketrec_quantization")
_N_WARM = 3


def count_everything() -> dict[str, Any]:
    """Return all counts, by what they are of."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_seeded_bundle(Path(folder) / "bundle", SHAPE)
        n_bytes = {part.name: part.length_bytes for part in bundle.manifest.parts}
        n_bytes[MANIFEST_FILE] = (bundle.path / MANIFEST_FILE).stat().st_size
        settings = EngineSettings(compute="fp32", swap="rebuild")  # nothing is chosen by a clock
        engine = build_engine(bundle, bundle.read(DEFAULT_PLAN), settings)
        effort = Effort(warmup=0, runs=1, min_seconds=0)
        scenario = single(engine, n_candidates=100, seed=0, effort=effort)
        calls = {name: _calls_of(call) for name, call in scenario.operations.items()}
    operators = {name: counted for config in BACKBONES for name, counted in _operators_of(config)}
    return {"operators": operators, "bytes": n_bytes, "python_calls": calls}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return one line per count that is not the expected one.

    Args:
        expected: What was committed.
        found: What ``count_everything`` returned.
    """
    first, second = dict(_flat(expected)), dict(_flat(found))
    return [
        f"{name}: expected {first.get(name, 'none')}, found {second.get(name, 'none')}"
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _operators_of(config: BackboneConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the operators of every function, kernel and speed preset."""
    frozen = tiny_frozen(config)
    plan = tiny_plan(frozen.layers, frozen.digest)
    graphs = write_graphs(frozen.dense, config)
    templates = {"step": Template(graphs["step"], STEP)}
    if "prefill" in graphs:
        bias = stack_relative_bias(frozen.dense, config.n_blocks)
        templates |= AttentionHistories(bias).templates(graphs["prefill"])
    names = [product.name for template in templates.values() for product in template.products]
    store = FrozenStore(frozen, names)
    for speed in sorted(SPEED_PRESETS):
        widths = replace(plan, levels=preset_levels(speed, plan.levels)).widths
        source = store.under(widths)
        for function, template in templates.items():
            for kernel in sorted(KERNELS):
                chosen = {product.name: kernel for product in template.products}
                lowered = template.lower(chosen, source)
                counted = _counted(lowered)
                counted["weight_bytes"] = sum(
                    array.nbytes for array in lowered.tensors(source).values()
                )
                yield f"{config.kind}/{function}/{kernel}/{speed}", counted


def _counted(lowered: LoweredGraph) -> dict[str, Any]:
    model = parse_graph(lowered.with_inputs(), "lowered")
    kinds = Counter(node.op_type for node in model.graph.node)
    return {"nodes": kinds.total(), "by_kind": dict(sorted(kinds.items()))}


def _calls_of(call: Callable[[], object]) -> int:
    """Return how many of our Python functions a call enters, once it is warm."""
    for _ in range(_N_WARM):
        call()
    counted = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal counted
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        # Some Python versions enter a comprehension as a function, others do not.
        is_named = not frame.f_code.co_name.startswith("<")
        counted += event == "call" and is_named and module in _OUR_PACKAGES

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    return counted


def _flat(counts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in counts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


@click.command()
@click.option("--update", is_flag=True, help="Write what is counted as what is expected.")
@json_option
def main(*, update: bool, json_path: str | None) -> None:
    """Compare all counts with the committed ones; the exit code is 1 if any differs."""
    found = count_everything()
    if update:
        write_atomically(EXPECTED, f"{json_text(found)}\n".encode())
    wrong = differences(json.loads(EXPECTED.read_text(encoding="utf-8")), found)
    lines = wrong or [f"all {len(dict(_flat(found)))} counts are as expected"]
    result = {"differences": wrong, "counts": found}
    text = "\n".join(lines)
    emit(result, render=lambda out: out.print(text, markup=False), json_path=json_path)
    if wrong:
        click.echo("if this was meant, run: python -m benchmarks.counts --update", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
