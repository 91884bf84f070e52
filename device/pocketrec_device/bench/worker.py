# SPDX-License-Identifier: Apache-2.0
"""Measures one cell in a process of its own; ``processes`` starts it.

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
    from pocketrec_device.bench.scenarios import Scenario
    from pocketrec_device.bench.stopwatch import Stopwatch
    from pocketrec_device.engine import Engine

__all__ = ["main", "measure"]

_N_READINGS = 40  # of the yardstick, over the time of measurement


def measure(job: dict[str, Any], stopwatch: Stopwatch | None = None) -> dict[str, Any]:
    """Load a cell, time it, and, when asked, rank the held-out users.

    Args:
        job: ``bundle`` (folder); ``plan`` and ``float_twin`` (file or None); ``peer`` and
            ``peer_file`` (of another runtime, or None); ``backend``; ``speed``; ``threads``;
            ``scenario``; ``sessions`` (file or None); ``n_candidates``; ``warmup``; ``runs``;
            ``min_seconds``; ``cases`` and ``baseline`` (files or None); ``seed``.
        stopwatch: What times; one that slows calls down shows whether that is noticed.

    Returns:
        ``import_ms``, ``load_ms``, ``first_run_ms``; ``samples_ns`` per operation;
        ``idle_rss_bytes``, ``loaded_rss_bytes`` and ``peak_rss_bytes``; ``started_at``,
        ``yardsticks_us``, ``cpu_share``, ``n_other_cores`` and ``n_throttled``;
        ``throughput_per_s`` or None; ``layers``; ``backend_version``; ``ranking``, or None.

    Raises:
        ArtifactError: The bundle or the plan cannot be used.
        BackendError: The backend cannot be made, or fails.
    """
    idle_rss_bytes = _peak_rss_bytes()
    started_at, started = time.time(), time.perf_counter()
    import pocketrec_device  # noqa: F401  # what an app pays before its first line

    imported = time.perf_counter()
    engine = None if job["peer"] is not None else _load(job)
    peer = _peer(job) if engine is None else None
    loaded, loaded_rss_bytes = time.perf_counter(), _peak_rss_bytes()
    scenario, facts = peer or _own(engine, job)
    prepared = time.perf_counter()
    scenario.first()
    first = time.perf_counter()
    timed = _time(scenario, job, stopwatch)
    return {
        "started_at": started_at,
        "import_ms": (imported - started) * 1e3,
        "load_ms": (loaded - imported) * 1e3,
        "first_run_ms": (first - prepared) * 1e3,
        "idle_rss_bytes": idle_rss_bytes,
        "loaded_rss_bytes": loaded_rss_bytes,
        "peak_rss_bytes": _peak_rss_bytes(),
        **timed,
        **facts,
        "ranking": _rank(engine, job),
    }


def _load(job: dict[str, Any]) -> Engine:
    from pocketrec_device.engine import build_engine
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.bundle import DEFAULT_PLAN, BundleFolder

    bundle = BundleFolder.open(Path(job["bundle"]))
    plan = bundle.read(DEFAULT_PLAN) if job["plan"] is None else Path(job["plan"]).read_bytes()
    settings = EngineSettings(backend=job["backend"], threads=job["threads"], preset=job["speed"])
    if job["float_twin"] is None:
        return build_engine(bundle, plan, settings)
    from pocketrec_device.float_control import build_float_engine

    return build_float_engine(bundle, Path(job["float_twin"]), settings)


def _peer(job: dict[str, Any]) -> tuple[Scenario, dict[str, Any]]:
    from pocketrec_device.bench.peer_scenario import load_peer_scenario

    return load_peer_scenario(job)


def _own(engine: Engine | None, job: dict[str, Any]) -> tuple[Scenario, dict[str, Any]]:
    if engine is None:
        raise ValueError("expected an engine, or another runtime")
    return _scenario(engine, job), {
        "backend_version": f"{engine.backend.name} {engine.backend.version}",
        "layers": [
            {
                "name": report.name,
                "requested": {str(bits): n for bits, n in report.requested.items()},
                "stored": {str(bits): n for bits, n in report.stored.items()},
                "n_elements": report.n_elements,
                "computed": report.computed,
                "kernel": report.kernel,
            }
            for report in engine.backend.report()
        ],
    }


def _scenario(engine: Engine, job: dict[str, Any]) -> Scenario:
    from pocketrec_device.bench import scenarios
    from pocketrec_device.bench.sessions import read_sessions

    effort = scenarios.Effort(**{key: job[key] for key in ("warmup", "runs", "min_seconds")})
    options = {"n_candidates": job["n_candidates"], "seed": job["seed"], "effort": effort}
    if job["scenario"] == "single":
        return scenarios.single(engine, **options)
    sessions = read_sessions(Path(job["sessions"]), engine.items.item_ids)
    scenario = scenarios.replay if job["scenario"] == "session" else scenarios.offline
    return scenario(engine, sessions, **options)


def _time(scenario: Scenario, job: dict[str, Any], stopwatch: Stopwatch | None) -> dict[str, Any]:
    """Time all rounds, looking at the machine now and then."""
    from pocketrec_device.bench.stopwatch import Stopwatch
    from pocketrec_device.bench.yardstick import Bystanders, Yardstick, throttle_events

    stopwatch, yardstick = stopwatch or Stopwatch(), Yardstick()
    pause_s = job["min_seconds"] / _N_READINGS
    n_throttled, read_at = throttle_events(), 0.0
    with Bystanders() as others:
        for _ in scenario.rounds(stopwatch):
            if time.perf_counter() >= read_at:
                yardstick.read()
                read_at = time.perf_counter() + pause_s
    of_users = stopwatch.samples_ns.get(scenario.users_of)
    return {
        "samples_ns": dict(stopwatch.samples_ns),
        "yardsticks_us": yardstick.readings_us,
        "cpu_share": others.cpu_share,
        "n_other_cores": others.n_cores,
        "n_throttled": throttle_events() - n_throttled,
        "throughput_per_s": None if of_users is None else len(of_users) / (sum(of_users) / 1e9),
    }


def _rank(engine: Engine | None, job: dict[str, Any]) -> dict[str, Any] | None:
    if engine is None or job["cases"] is None:
        return None
    from pocketrec_device.bench.quality import rank_cases

    baseline = None if job["baseline"] is None else Path(job["baseline"])
    return rank_cases(engine, Path(job["cases"]), seed=job["seed"], baseline=baseline)


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


def main(stopwatch: Stopwatch | None = None) -> None:
    """Read the job from the argument, print the measurement.

    Args:
        stopwatch: As of ``measure``.
    """
    # On a line of its own, whatever a library printed before.
    sys.stdout.write(f"\n{json.dumps(measure(json.loads(sys.argv[1]), stopwatch))}\n")


if __name__ == "__main__":
    main()
