# SPDX-License-Identifier: Apache-2.0
"""How fast the machine is right now: a fixed piece of work, and who else is using it.

The work resembles a ranking, interpreted code around small NumPy calls, so that what slows
one slows the other: a lower clock, a busy neighbour, a host that gives our core away.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Self

import numpy as np

__all__ = ["Bystanders", "Yardstick", "throttle_events"]

_CALLS = 15
_WORDS = [f"item-{number}" for number in range(200)]
_STAT = Path("/proc/stat")
_COUNTERS = "cpu*/thermal_throttle/core_throttle_count"


class Yardstick:
    """Times the same work again and again; ``readings_us`` holds the medians."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._matrix = rng.random((64, 64), np.float32)
        self._vector = rng.random(64, np.float32)
        self._table = {word: number for number, word in enumerate(_WORDS)}
        self.readings_us: list[float] = []

    def read(self) -> None:
        """Take one reading, a few hundred microseconds of work."""
        times_ns = []
        for _ in range(_CALLS):
            started = time.perf_counter_ns()
            self._work()
            times_ns.append(time.perf_counter_ns() - started)
        self.readings_us.append(statistics.median(times_ns) / 1e3)

    def _work(self) -> None:
        indices = [self._table[word] for word in _WORDS]
        found = self._vector
        for _ in range(4):
            found = self._matrix @ found
            found = found / (1 + abs(found).max())
        scores = found.take(np.array(indices) % found.size)
        np.argsort(-scores, kind="stable")


class Bystanders:
    """Counts processor time that other processes take while ``with`` lasts.

    Attributes:
        n_cores: Cores that they kept busy, on average; None where the system has no
            ``/proc/stat``.
        cpu_share: Processor time of this process per second of the clock, all threads.
    """

    def __init__(self) -> None:
        self.n_cores: float | None = None
        self.cpu_share = 0.0
        self._began = (0.0, 0.0, 0.0)

    def __enter__(self) -> Self:
        """Begin."""
        self._began = (time.perf_counter(), time.process_time(), _busy_seconds() or 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        """End, and work the numbers out."""
        clock, own, busy = self._began
        seconds, own_seconds = time.perf_counter() - clock, time.process_time() - own
        now = _busy_seconds()
        self.cpu_share = own_seconds / seconds
        if now is not None:
            self.n_cores = max(0.0, (now - busy - own_seconds) / seconds)


def throttle_events(folder: Path = Path("/sys/devices/system/cpu")) -> int:
    """Return how often cores were slowed down by heat since the start; 0 where unknown.

    Args:
        folder: Where Linux has them.
    """
    found = 0
    for path in folder.glob(_COUNTERS):
        try:
            found += int(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return found


def _busy_seconds() -> float | None:
    """Return the processor time of everybody since the machine's start; None if unknown."""
    try:
        fields = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields)
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
