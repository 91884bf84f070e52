# SPDX-License-Identifier: Apache-2.0
"""Times a call again and again, and asks how much memory the process holds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["peak_rss_bytes", "rss_bytes", "sample"]

WARMUP_CALLS = 20


def sample(call: Callable[[], object], job: dict[str, Any]) -> dict[str, Any]:
    """Time a call again and again.

    Args:
        call: What to time.
        job: ``min_runs`` and ``min_seconds``, both to be reached.

    Returns:
        ``p50_us``, ``p90_us``, ``p99_us``, ``n``; ``rss_bytes``, the most memory held so far;
        ``cpu_share``, processor time per time of the clock: 1 is one thread that is never
        kept waiting, more is a second thread.
    """
    import numpy as np  # late: memory is measured before a task imports what it needs

    warm = time.perf_counter() + job["min_seconds"] / 5
    n_warm = 0
    while n_warm < min(WARMUP_CALLS, job["min_runs"]) or time.perf_counter() < warm:
        call()
        n_warm += 1
    samples: list[int] = []
    started, started_cpu = time.perf_counter(), time.process_time()
    deadline = started + job["min_seconds"]
    while len(samples) < job["min_runs"] or time.perf_counter() < deadline:
        before = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - before)
    cpu_share = (time.process_time() - started_cpu) / (time.perf_counter() - started)
    p50, p90, p99 = (float(value) / 1e3 for value in np.percentile(samples, (50, 90, 99)))
    return {
        "p50_us": p50,
        "p90_us": p90,
        "p99_us": p99,
        "n": len(samples),
        "rss_bytes": peak_rss_bytes(),
        "cpu_share": cpu_share,
    }


def peak_rss_bytes() -> int:
    """Return the most memory this process has held."""
    try:
        # Linux: getrusage would count what the parent held when it started this process.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rss_bytes() -> int:
    """Return the memory that this process holds now, in pages of which a part is its own.

    Raises:
        OSError: The system has no ``/proc``.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
