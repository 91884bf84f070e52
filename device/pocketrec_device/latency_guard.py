# SPDX-License-Identifier: Apache-2.0
"""Keeps a bundle out that would make ranking much slower than it is.

Both engines are timed in turn, so that whatever else the device does slows both down, and
their medians are compared. The limits leave room: an engine is refused only if it is slow
by the clock and slow beside the one that runs, and is so twice in a row. Without an engine
that runs nothing is refused, since a slow ranking beats none.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pocketrec.errors import ConfigError, HealthCheckError

__all__ = ["Latencies", "LatencyLimits", "Work", "check_latency", "is_too_slow"]

Work: TypeAlias = Callable[[], object]
"""What a user waits for: one ``observe`` and one ``rerank``, on an engine of its own."""

_MIN_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyLimits:
    """How slow a new engine may be.

    Args:
        is_on: Whether to look at all.
        max_us: A median up to this, in microseconds, is always fast enough.
        max_ratio: Above it, a median up to so many times that of the engine that runs.
        n_rounds: How often each engine is timed, from 3.
        budget_s: Seconds after which there is no further round, once there were 3.

    Raises:
        ConfigError: A number is out of its range.
    """

    is_on: bool = True
    max_us: float = 50_000.0
    max_ratio: float = 5.0
    n_rounds: int = 9
    budget_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.max_us < math.inf:
            raise ConfigError(f"max_us: expected more than 0, got {self.max_us}")
        if not 1 <= self.max_ratio < math.inf:
            raise ConfigError(f"max_ratio: expected 1 or more, got {self.max_ratio}")
        if self.n_rounds < _MIN_ROUNDS:
            raise ConfigError(f"n_rounds: expected {_MIN_ROUNDS} or more, got {self.n_rounds}")
        if not 0 <= self.budget_s < math.inf:
            raise ConfigError(f"budget_s: expected 0 or more, got {self.budget_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """What was measured.

    Args:
        new_us: Median of the new engine, microseconds.
        old_us: Median of the engine that runs, microseconds; None = there is none.
    """

    new_us: float
    old_us: float | None


def is_too_slow(found: Latencies, limits: LatencyLimits) -> bool:
    """Return whether a new engine is beyond both limits.

    Args:
        found: What was measured.
        limits: What is allowed.
    """
    if found.old_us is None:
        return False
    return found.new_us > limits.max_us and found.new_us > limits.max_ratio * found.old_us


def check_latency(
    new: Work,
    old: Work | None,
    limits: LatencyLimits,
    *,
    timer: Callable[[], float] = time.perf_counter,
) -> Latencies | None:
    """Return what was measured when a new engine is fast enough.

    Args:
        new: Works on the new engine.
        old: Does the same on the engine that runs; None = there is none.
        limits: What is allowed.
        timer: Seconds, from any beginning.

    Returns:
        The medians, or None when the limits are off.

    Raises:
        HealthCheckError: It is not, and was not a second time either.
        BackendError: Inference failed.
    """
    if not limits.is_on:
        return None
    found = _measure(new, old, limits, timer)
    if is_too_slow(found, limits):
        found = _measure(new, old, limits, timer)
    if found.old_us is not None and is_too_slow(found, limits):
        raise HealthCheckError(
            f"expected one event and one ranking within {limits.max_us:.0f} us, or "
            f"{limits.max_ratio:g} times the {found.old_us:.0f} us of what runs, but the new "
            f"bundle and plan take {found.new_us:.0f} us on this device; they were not installed"
        )
    return found


def _measure(
    new: Work, old: Work | None, limits: LatencyLimits, timer: Callable[[], float]
) -> Latencies:
    """Time both in turn; a first call each, which may have to warm up, does not count."""
    works = [work for work in (new, old) if work is not None]
    for work in works:
        work()
    taken_s: list[list[float]] = [[] for _ in works]
    begun_s = timer()
    for number in range(limits.n_rounds):
        if number >= _MIN_ROUNDS and timer() - begun_s >= limits.budget_s:
            break
        for work, seconds in zip(works, taken_s, strict=True):
            start_s = timer()
            work()
            seconds.append(timer() - start_s)
    medians_us = [statistics.median(seconds) * 1e6 for seconds in taken_s]
    return Latencies(new_us=medians_us[0], old_us=medians_us[1] if old is not None else None)
