# SPDX-License-Identifier: Apache-2.0
"""Counts how long calls took, in a few buckets: cheap enough for every call."""

from __future__ import annotations

import functools
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["LATENCY_BOUNDS_US", "LatencyCounter", "counted"]

LATENCY_BOUNDS_US = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 500_000)
"""Upper bounds of the buckets in microseconds, inclusive; the last bucket has none."""

_BOUNDS_NS = tuple(1000 * bound for bound in LATENCY_BOUNDS_US)

P = ParamSpec("P")
R = TypeVar("R")


class LatencyCounter:
    """Counts by bucket, until somebody takes the counts; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(_BOUNDS_NS) + 1)

    def add(self, duration_ns: int) -> None:
        """Count one call.

        Args:
            duration_ns: How long it took, in nanoseconds.
        """
        bucket = bisect_left(_BOUNDS_NS, duration_ns)
        with self._lock:
            self._counts[bucket] += 1

    def take(self) -> tuple[int, ...]:
        """Return the counts, one per bucket, and start again from zero."""
        with self._lock:
            counts, self._counts = self._counts, [0] * len(self._counts)
        return tuple(counts)

    def put_back(self, counts: Sequence[int]) -> None:
        """Add counts that were taken, but told to nobody."""
        with self._lock:
            self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]


class _Counting(Protocol):
    @property
    def latencies(self) -> LatencyCounter | None: ...


C = TypeVar("C", bound=_Counting)


def counted(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Count how long a method takes when it succeeds, if its object has a counter."""

    @functools.wraps(method)
    def call(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        counter = self.latencies
        if counter is None:
            return method(self, *args, **kwargs)
        started_ns = time.perf_counter_ns()
        result = method(self, *args, **kwargs)
        counter.add(time.perf_counter_ns() - started_ns)
        return result

    return call
