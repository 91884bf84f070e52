# SPDX-License-Identifier: Apache-2.0
"""One task of ``runtime_costs`` in a process of its own.

The job comes as JSON in the only argument; the answer goes to the file it names. Nothing is
imported before it is timed, and nothing that the task does not need.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sampling import peak_rss_bytes, rss_bytes, sample

if TYPE_CHECKING:
    from benchmarks.shapes import Shape
    from pocketrec_device.engine import Engine
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.bundle import BundleFolder

__all__ = ["main", "run_task"]

N_CALLS = 200
N_CANDIDATES, K = 100, 10
PRESETS = ("battery_saver", "balanced")
_PLANS = ("0.plan", "1.plan")


def run_task(job: dict[str, Any]) -> dict[str, Any]:
    """Do what a job asks.

    Args:
        job: ``task``; ``shape``, the fields of a ``Shape``; ``model``, the folder that
            ``build`` writes; ``swap`` and ``compute`` where a task reads them;
            ``min_runs`` and ``min_seconds``; ``spawned_ns``, when the process was asked for.

    Returns:
        What the task found.
    """
    return _TASKS[job["task"]](job, Path(job["model"]))


def _build(job: dict[str, Any], model: Path) -> dict[str, Any]:
    """Write bundle, plans, and a store that has measured what it wants to know."""
    from benchmarks.seeded_bundle import MODEL_NAME, shuffled_plan, write_seeded_bundle
    from pocketrec_device import Runtime
    from pocketrec_quantization.budget import effective_bits
    from pocketrec_quantization.layers import total_weights
    from pocketrec_quantization.plan import encode_plan

    bundle = write_seeded_bundle(model / "bundle", _shape(job), seed=job["seed"])
    plan = bundle.read_default_plan()
    for seed, name in enumerate(_PLANS):
        (model / name).write_bytes(encode_plan(shuffled_plan(plan, seed=seed), None))
    with Runtime.create(model / "store", model=MODEL_NAME) as runtime:
        runtime.bootstrap(bundle.path)
        for preset in PRESETS:
            runtime.use_preset(preset)
    return {
        "effective_bits": effective_bits(plan.layers, plan.widths),
        "n_weights": total_weights(plan.layers),
    }


def _measure_memory(job: dict[str, Any], model: Path) -> dict[str, Any]:
    """Return the most memory held so far, after each thing a device process does."""
    found = {"python": peak_rss_bytes()}
    from pocketrec_device import Runtime

    found["import"] = peak_rss_bytes()
    runtime = Runtime.open(model / "store")
    found["open"] = peak_rss_bytes()
    ids = _ids(job)
    for number in range(N_CALLS):
        runtime.observe(ids[number % len(ids)])
    found["observe"] = peak_rss_bytes()
    for _ in range(N_CALLS):
        runtime.rerank(ids[:N_CANDIDATES], K)
    found["rerank"] = peak_rss_bytes()
    runtime.rerank(ids[:N_CANDIDATES], K, mode="sequential")
    found["slate"] = peak_rss_bytes()
    runtime.use_preset(PRESETS[0])
    found["preset"] = peak_rss_bytes()
    return {"peak_bytes": found["preset"], "peak_after": found}


def _measure_start(job: dict[str, Any], model: Path) -> dict[str, Any]:
    ids = _ids(job)
    started = time.monotonic_ns()
    from pocketrec_device import Runtime

    imported = time.monotonic_ns()
    runtime = Runtime.open(model / "store")
    opened = time.monotonic_ns()
    runtime.observe_many(ids[: job["shape"]["window"]])
    runtime.rerank(ids[:N_CANDIDATES], K)
    ranked = time.monotonic_ns()
    return {
        "first_ranking_s": (ranked - started) / 1e9,
        "first_ranking_with_python_s": (ranked - job["spawned_ns"]) / 1e9,
        "parts_s": {
            "python": (started - job["spawned_ns"]) / 1e9,
            "import": (imported - started) / 1e9,
            "open": (opened - imported) / 1e9,
            "history and ranking": (ranked - opened) / 1e9,
        },
    }


def _measure_swap(job: dict[str, Any], model: Path) -> dict[str, Any]:
    """Time swaps of plan and preset on a full window, and the parts of the first."""
    from benchmarks.swappable_runtime import SwappableRuntime
    from pocketrec_device import Runtime
    from pocketrec_quantization.bundle import BundleFolder

    bundle = BundleFolder.open(model / "bundle")
    settings = _settings(job, model)
    ids = _ids(job)
    containers = itertools.cycle([(model / name).read_bytes() for name in _PLANS])
    runtime = SwappableRuntime(bundle, settings)
    runtime.adopt(runtime.engine_under(next(containers)))
    runtime.observe_many([ids[n % len(ids)] for n in range(2 * job["shape"]["window"])])

    def swap() -> None:
        runtime.adopt(runtime.engine_under(next(containers)))

    def change_preset() -> None:
        stored.use_preset(next(presets))

    swaps = _percentiles(sample(swap, job))
    parts = _swap_parts(job, bundle, settings, [next(containers), next(containers)])
    presets = itertools.cycle(PRESETS)
    stored = Runtime.open(model / "store", swap=job["swap"])
    stored.observe_many(ids[: job["shape"]["window"]])
    return {
        "swap_us": swaps,
        "parts_us": parts,
        "preset_us": _percentiles(sample(change_preset, job)),
    }


def _swap_parts(
    job: dict[str, Any], bundle: BundleFolder, settings: EngineSettings, plans: Sequence[bytes]
) -> dict[str, float]:
    """Return the median of every part of a swap, in the order in which they happen."""
    import hashlib

    import numpy as np

    from pocketrec_device.backends import build_backend
    from pocketrec_device.engine import build_engine
    from pocketrec_quantization.plan import check_applies, decode_plan

    engine = build_engine(bundle, plans[0], settings)
    backend = engine.backend
    containers = itertools.cycle(plans)
    history = engine.items.item_ids[: job["shape"]["window"]]
    times: list[list[int]] = []

    def swap() -> None:
        nonlocal backend
        data = next(containers)
        marks = [time.perf_counter_ns()]
        plan = decode_plan(data)
        check_applies(plan, bundle.manifest.layers, bundle.model_digest)
        hashlib.sha256(data).hexdigest()
        marks.append(time.perf_counter_ns())
        backend = build_backend(bundle, plan, settings, like=backend)
        marks.append(time.perf_counter_ns())
        session = backend.new_state()
        marks.append(time.perf_counter_ns())
        session.observe(engine.items.embed(engine.items.indices_of(history)))
        marks.append(time.perf_counter_ns())
        times.append([later - earlier for earlier, later in itertools.pairwise(marks)])

    sample(swap, job)
    names = ("decode and check", "weights, or sessions", "state", "history")
    return dict(zip(names, (np.median(times, axis=0) / 1e3).tolist(), strict=True))


def _measure_slate(job: dict[str, Any], model: Path) -> dict[str, Any]:
    from pocketrec_device import Runtime

    ids = _ids(job)
    events = itertools.cycle(ids)
    runtime = Runtime.open(model / "store")
    runtime.observe_many(ids[: job["shape"]["window"]])

    def both() -> None:
        runtime.observe(next(events))
        runtime.rerank(ids[:N_CANDIDATES], K)

    calls: dict[str, Callable[[], object]] = {
        "rerank": lambda: runtime.rerank(ids[:N_CANDIDATES], K),
        "observe": lambda: runtime.observe(next(events)),
        "observe + rerank": both,
        "slate": lambda: runtime.rerank(ids[:N_CANDIDATES], K, mode="sequential"),
    }
    times = _medians_in_turns(calls, job)
    return {
        "p50_us": times,
        "slate_per_rerank": times["slate"] / times["rerank"],
        "slate_per_observe_rerank": times["slate"] / times["observe + rerank"],
    }


def _medians_in_turns(
    calls: dict[str, Callable[[], object]], job: dict[str, Any]
) -> dict[str, float]:
    """Time calls one after the other, again and again: what disturbs one disturbs all."""
    import numpy as np

    times: dict[str, list[int]] = {name: [] for name in calls}

    def turn() -> None:
        for name, call in calls.items():
            started = time.perf_counter_ns()
            call()
            times[name].append(time.perf_counter_ns() - started)

    sample(turn, job)
    return {name: float(np.median(found)) / 1e3 for name, found in times.items()}


def _measure_kernels(job: dict[str, Any], model: Path) -> dict[str, Any]:

    engine = _engine(job, model)
    window = job["shape"]["window"]
    x = engine.items.embed(engine.items.indices_of(engine.items.item_ids[:window]))
    session = engine.backend.new_state()

    def prefill() -> None:
        session.reset()
        session.observe(x)

    prefills = _percentiles(sample(prefill, job))
    steps = _percentiles(sample(lambda: session.step(x[0]), job))
    return {"step_us": steps, "prefill_us": prefills, "kernels": _kernels(engine)}


def _measure_weights(job: dict[str, Any], model: Path) -> dict[str, Any]:
    """Return what this process holds with both functions in use.

    What was freed may stay with the process; ``trimmed_bytes`` is without it.
    """
    from pocketrec_device.memory import release_freed_memory

    engine = _engine(job, model)
    window = job["shape"]["window"]
    x = engine.items.embed(engine.items.indices_of(engine.items.item_ids[:window]))
    session = engine.backend.new_state()
    session.observe(x)
    session.step(x[0])
    gc.collect()
    found = {"rss_bytes": rss_bytes(), "peak_bytes": peak_rss_bytes()}
    release_freed_memory()
    return {**found, "trimmed_bytes": rss_bytes(), "kernels": _kernels(engine)}


def _count_weights(job: dict[str, Any], model: Path) -> dict[str, Any]:
    """Return the bytes that a session is given under the default plan, by kernel."""
    from pocketrec_device.lowering.channels import FrozenStore
    from pocketrec_device.lowering.kernels import KERNELS
    from pocketrec_device.lowering.lowered_graph import Template
    from pocketrec_quantization.bundle import STEP, BundleFolder

    del job
    bundle = BundleFolder.open(model / "bundle")
    step = Template(bundle.read(STEP), STEP)
    names = [product.name for product in step.products]
    source = FrozenStore(bundle.read_frozen(), names).under(bundle.read_default_plan().widths)
    given = {}
    for kernel in KERNELS:
        tensors = step.lower(dict.fromkeys(names, kernel), source).tensors(source)
        given[kernel] = sum(tensor.nbytes for tensor in tensors.values())
    return {"given_bytes": given}


_TASKS: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
    "build": _build,
    "memory": _measure_memory,
    "start": _measure_start,
    "swap": _measure_swap,
    "slate": _measure_slate,
    "kernels": _measure_kernels,
    "weights": _measure_weights,
    "count": _count_weights,
}


def _shape(job: dict[str, Any]) -> Shape:
    from benchmarks.shapes import Shape

    return Shape(**job["shape"])


def _ids(job: dict[str, Any]) -> list[str]:
    return [f"item-{number}" for number in range(1, job["shape"]["n_items"] + 1)]


def _settings(job: dict[str, Any], model: Path) -> EngineSettings:
    from pocketrec_device.settings import EngineSettings

    return EngineSettings(
        compute=job.get("compute", "auto"),
        swap=job.get("swap", "auto"),
        tuning_file=model / "store" / "tuning.json",
    )


def _engine(job: dict[str, Any], model: Path) -> Engine:
    from pocketrec_device.engine import build_engine
    from pocketrec_quantization.bundle import DEFAULT_PLAN, BundleFolder

    bundle = BundleFolder.open(model / "bundle")
    return build_engine(bundle, bundle.read(DEFAULT_PLAN), _settings(job, model))


def _kernels(engine: Engine) -> list[str]:
    return sorted({f"{layer.computed} ({layer.kernel})" for layer in engine.backend.report()})


def _percentiles(sampled: dict[str, Any]) -> dict[str, float]:
    return {"p50": sampled["p50_us"], "p90": sampled["p90_us"]}


def main() -> None:
    """Do the job in the argument; whatever goes wrong becomes its answer."""
    job = json.loads(sys.argv[1])
    try:
        answer = run_task(job)
    except Exception as exc:  # noqa: BLE001  # the benchmark goes on without this figure
        lines = str(exc).strip().splitlines() or ["no message"]
        answer = {"error": f"{type(exc).__name__}: {lines[0]}"}
    Path(job["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
