# SPDX-License-Identifier: Apache-2.0
"""Where numbers lie on an axis, and which of them are written beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Scale", "linear_scale", "log_scale"]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis.

    Args:
        low: The number at ``start``.
        high: The number at ``end``.
        start: In the picture's units.
        end: Likewise.
        ticks: Numbers that are written.
        is_log: Whether equal ratios take equal room.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool

    def at(self, value: float) -> float:
        """Return where a number lies; what is outside lies at the border."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def linear_scale(low: float, high: float, start: float, end: float, *, n_ticks: int = 6) -> Scale:
    """Return an axis from round number to round number around ``low`` and ``high``."""
    if not high > low:
        low, high = low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5
    rough = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in _STEPS if power * each >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Scale(low=ticks[0], high=ticks[-1], start=start, end=end, ticks=ticks, is_log=False)


def log_scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return an axis over positive numbers, written at 1, 2 and 5 times powers of ten."""
    low = max(low, 1e-9)
    high = max(high, low * 1.5)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    numbers = [each * 10.0**power for power in range(first, last + 1) for each in (1, 2, 5)]
    below = [number for number in numbers if number <= low * 1.0001]
    above = [number for number in numbers if number >= high * 0.9999]
    low, high = (below or [low])[-1], (above or [high])[0]
    ticks = tuple(number for number in numbers if low <= number <= high)
    return Scale(low=low, high=high, start=start, end=end, ticks=ticks, is_log=True)
