# SPDX-License-Identifier: Apache-2.0
"""Measures one variant in a process of its own; ``bench`` starts it.

The job comes as JSON in the only argument, the measurement goes as JSON to stdout.
Memory and load times are only honest in a process that has done nothing else, so nothing
is imported before it is timed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketrec_device.engine import Engine

__all__ = ["main", "measure"]

_K = 10


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Load a variant, time it, and, when asked, rank the held-out users.

    Args:
        job: ``bundle`` (folder); ``plan`` and ``float_twin`` (file or None); ``backend``;
            ``threads``; ``n_candidates``; ``warmup``; ``runs``; ``min_seconds``; ``cases``
            (file or None); ``seed``.

    Returns:
        ``import_ms``, ``load_ms``, ``first_run_ms``; ``samples_us`` per operation;
        ``peak_rss_bytes`` and ``idle_rss_bytes``; ``ranks``, one per case, or None;
        ``computed``, what the arithmetic runs in; ``backend``, with its version.

    Raises:
        ArtifactError: The bundle or the plan cannot be used.
        BackendError: The backend cannot be made, or fails.
    """
    idle_rss_bytes = _peak_rss_bytes()
    started = time.perf_counter()
    import pocketrec_device  # noqa: F401  # what an app pays before its first line

    imported = time.perf_counter()
    engine = _load(job)
    loaded = time.perf_counter()
    operations = _operations(engine, job["n_candidates"], job["seed"])
    operations["prefill_rerank"]()
    first = time.perf_counter()
    samples = {name: _time(call, job) for name, call in operations.items()}
    peak_rss_bytes = _peak_rss_bytes()
    return {
        "import_ms": (imported - started) * 1e3,
        "load_ms": (loaded - imported) * 1e3,
        "first_run_ms": (first - loaded) * 1e3,
        "samples_us": samples,
        "idle_rss_bytes": idle_rss_bytes,
        "peak_rss_bytes": peak_rss_bytes,
        "computed": sorted({f"{r.computed} ({r.kernel})" for r in engine.backend.report()}),
        "backend": f"{engine.backend.name} {engine.backend.version}",
        "ranks": None if job["cases"] is None else _ranks(engine, Path(job["cases"]), job["seed"]),
    }


def _load(job: dict[str, Any]) -> Engine:
    from pocketrec_device.engine import build_engine
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.bundle import DEFAULT_PLAN, BundleFolder

    bundle = BundleFolder.open(Path(job["bundle"]))
    plan = bundle.read(DEFAULT_PLAN) if job["plan"] is None else Path(job["plan"]).read_bytes()
    settings = EngineSettings(backend=job["backend"], threads=job["threads"])
    if job["float_twin"] is None:
        return build_engine(bundle, plan, settings)
    from pocketrec_device.float_control import build_float_engine

    return build_float_engine(bundle, Path(job["float_twin"]), settings)


def _operations(engine: Engine, n_candidates: int, seed: int) -> dict[str, Callable[[], object]]:
    """Return the calls an app makes, on a user with a full window of events."""
    import numpy as np

    from pocketrec_device.live import LiveSession
    from pocketrec_device.ranking import Candidates

    rng = np.random.default_rng(seed)
    ids = engine.items.item_ids
    history = [ids[i] for i in rng.integers(0, len(ids), engine.manifest.backbone.window)]
    chosen = rng.choice(len(ids), min(n_candidates, len(ids)), replace=False)
    candidates = [ids[i] for i in chosen]
    events = [ids[i] for i in rng.integers(0, len(ids), 1009)]
    live = LiveSession()
    live.adopt(engine)
    turn = 0

    def rerank() -> object:
        return live.snapshot().rank(Candidates.of(candidates), _K)

    def observe() -> None:
        nonlocal turn
        live.observe(events[turn % len(events)])
        turn += 1

    def observe_rerank() -> object:
        observe()
        return rerank()

    def prefill_rerank() -> object:
        live.reset()
        live.observe_many(history)
        return rerank()

    return {
        "prefill_rerank": prefill_rerank,
        "observe": observe,
        "rerank": rerank,
        "observe_rerank": observe_rerank,
    }


def _time(call: Callable[[], object], job: dict[str, Any]) -> list[float]:
    """Return microseconds per call: at least ``runs`` calls and ``min_seconds``."""
    for _ in range(job["warmup"]):
        call()
    samples: list[float] = []
    deadline = time.perf_counter() + job["min_seconds"]
    while len(samples) < job["runs"] or time.perf_counter() < deadline:
        started = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - started) / 1e3)
    return samples


def _ranks(engine: Engine, path: Path, seed: int) -> list[int]:
    """Rank every held-out target among all items the user has not seen."""
    import numpy as np

    from pocketrec.metrics import rank_of_target
    from pocketrec_quantization.cases import EvaluationCases

    cases = EvaluationCases.from_bytes(path.read_bytes())
    rng = np.random.default_rng(seed)
    everything = engine.items.gather(np.arange(cases.n_items + 1))
    window = engine.manifest.backbone.window
    ranks = []
    for case in range(cases.n_cases):
        history, target = cases.history(case), cases.targets[case : case + 1].astype(np.int64)
        session = engine.backend.new_state()
        session.observe(engine.items.embed(history[-window:]))
        scores = everything.scores(session.h)
        own = scores[target]
        scores[history] = -np.inf
        scores[0] = -np.inf
        scores[target] = own
        ranks.append(int(rank_of_target(scores[None], target, rng)[0]))
    return ranks


def _peak_rss_bytes() -> int:
    """Return the most memory this process has held."""
    try:
        # Linux: getrusage would count what the parent held when it started this process.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Read the job from the argument, print the measurement."""
    sys.stdout.write(json.dumps(measure(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
