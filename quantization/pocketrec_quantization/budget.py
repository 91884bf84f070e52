# SPDX-License-Identifier: Apache-2.0
"""What widths cost in bytes, and how a byte budget is spent on gains.

A channel of N elements at b > 0 bits takes ceil(N * b / 8) bytes and 4 for its scale;
a pruned channel (0 bits) takes nothing. Budgets are integers, and :func:`allocate`
breaks ties by position, so every machine that is given the same gains finds the same
codes.

Source: CHORD sorts channels globally; bytes, hull and ties are our choice.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_quantization.layers import (
    LayerTable,
    elements_per_channel,
    total_channels,
    total_weights,
)
from pocketrec_quantization.levels import DEFAULT_LEVELS, WIDTHS, LevelTable

__all__ = [
    "SCALE_BYTES",
    "allocate",
    "budget_bytes",
    "coded_bytes",
    "effective_bits",
    "tier_costs",
]

SCALE_BYTES = 4
"""One float32 scale per channel."""


def channel_bytes(n_elements: NDArray[np.int64], bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the bytes of channels, scales included.

    Args:
        n_elements: (C,) int64, N of each channel.
        bits: (C,) uint8, width of each channel.

    Returns:
        (C,) int64.
    """
    packed = -(-(n_elements * bits.astype(np.int64)) // 8)
    return np.where(bits == 0, 0, packed + SCALE_BYTES)


def coded_bytes(layers: LayerTable, widths: NDArray[np.uint8]) -> int:
    """Return the bytes of all coded weights, scales included.

    Args:
        layers: The model's layers.
        widths: (C_total,) uint8, bits per channel.

    Raises:
        ConfigError: ``widths`` has another length, or holds a width outside 0, 2, 4, 8.
    """
    if widths.shape != (total_channels(layers),) or not np.isin(widths, WIDTHS).all():
        raise ConfigError(
            f"widths: expected 0, 2, 4 or 8 for each of {total_channels(layers)} channels"
        )
    return int(channel_bytes(elements_per_channel(layers), widths).sum())


def effective_bits(layers: LayerTable, widths: NDArray[np.uint8]) -> float:
    """Return bits per weight with scales counted: 8 * coded_bytes / weights.

    Args:
        layers: The model's layers.
        widths: (C_total,) uint8, bits per channel.

    Raises:
        ConfigError: As :func:`coded_bytes`.
    """
    return 8 * coded_bytes(layers, widths) / total_weights(layers)


def budget_bytes(layers: LayerTable, average_bits: float) -> int:
    """Return the bytes that an average width comes to, scales included.

    Between two widths the size is interpolated, so uniform plans fit exactly; where N
    is a multiple of 4 the result is weights * average_bits / 8 + 4 per channel.

    Args:
        layers: The model's layers.
        average_bits: Bits per coded weight, scales apart, 0..8.

    Raises:
        ConfigError: ``average_bits`` is outside 0..8.
    """
    if not 0 <= average_bits <= WIDTHS[-1]:
        raise ConfigError(f"average_bits: expected 0..8, got {average_bits!r}")
    above = max(1, bisect.bisect_left(WIDTHS, average_bits))
    low, high = WIDTHS[above - 1], WIDTHS[above]
    small, large = _uniform_bytes(layers, low), _uniform_bytes(layers, high)
    share = (Fraction(float(average_bits)) - low) / (high - low)
    return math.floor(small + share * (large - small))


def allocate(
    gains: NDArray[np.float64],
    layers: LayerTable,
    budget_bytes: int,
    *,
    levels: LevelTable = DEFAULT_LEVELS,
) -> NDArray[np.uint8]:
    """Spend a byte budget where it gains most.

    Every channel starts at the lowest tier. Upgrades are taken in the order of gain
    per byte on each channel's concave hull (an upgrade that only pays together with
    the next is taken as one), ties going to the earlier channel. What no longer fits
    is skipped, and smaller upgrades further down fill the remainder. Upgrades of
    negative gain are never taken. The total gain is within one upgrade of the optimum.

    Args:
        gains: (C_total, 2) float64, finite: what tier 2 gains over 1, and 3 over 2.
        layers: The model's layers.
        budget_bytes: Upper bound of :func:`coded_bytes`.
        levels: What the tiers mean in bits.

    Returns:
        (C_total,) uint8, codes 1..3.

    Raises:
        ConfigError: ``gains`` has another shape or is not finite.
        InfeasibleBudgetError: Not even the lowest tier everywhere fits.
    """
    minimum, costs = tier_costs(layers, levels)
    if gains.shape != costs.shape or not np.isfinite(gains).all():
        raise ConfigError(f"gains: expected finite {costs.shape}, got shape {gains.shape}")
    left = budget_bytes - minimum
    if left < 0:
        raise InfeasibleBudgetError(
            f"expected at least {minimum} bytes for {levels.bits[1]} bits everywhere, got "
            f"{budget_bytes}; raise the budget",
            requested_bytes=budget_bytes,
            minimum_bytes=minimum,
        )
    codes = [1] * len(costs)
    for channel, from_code, to_code, cost in _upgrades(gains.astype(np.float64), costs):
        if codes[channel] == from_code and cost <= left:
            codes[channel] = to_code
            left -= cost
    return np.array(codes, np.uint8)


def tier_costs(layers: LayerTable, levels: LevelTable) -> tuple[int, NDArray[np.int64]]:
    """Return the bytes of the lowest tier everywhere, and (C, 2) what each upgrade adds."""
    n_elements = elements_per_channel(layers)
    low, middle, high = (
        channel_bytes(n_elements, _constant(n_elements.size, bits)) for bits in levels.bits[1:]
    )
    return int(low.sum()), np.stack([middle - low, high - middle], axis=1)


def _upgrades(
    gains: NDArray[np.float64], costs: NDArray[np.int64]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (channel, from code, to code, bytes) of every upgrade, by falling gain per byte."""
    first, second = _density(gains[:, 0], costs[:, 0]), _density(gains[:, 1], costs[:, 1])
    whole = _density(gains.sum(axis=1), costs.sum(axis=1))
    is_merged = second > first
    # Three kinds per channel: 1 -> 2, 2 -> 3, and 1 -> 3 at once where the second is denser.
    # The first half of a merged upgrade is less dense than the whole, so it comes up later:
    # it is taken when the whole did not fit.
    density = np.stack([first, second, whole])
    allowed = (density >= 0) & np.stack([np.ones_like(is_merged), ~is_merged, is_merged])
    cost = np.stack([costs[:, 0], costs[:, 1], costs.sum(axis=1)])
    kind, channel = np.nonzero(allowed)
    from_code, to_code = np.array([1, 2, 1])[kind], np.array([2, 3, 3])[kind]
    order = np.lexsort((-to_code, from_code, channel, -density[allowed]))
    columns = (channel, from_code, to_code, cost[allowed])
    return zip(*(column[order].tolist() for column in columns), strict=True)


def _density(gains: NDArray[np.float64], costs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return gain per byte; an upgrade that costs nothing is infinitely dense."""
    free = np.where(gains >= 0, np.inf, -np.inf)
    return np.divide(gains, costs, out=free, where=costs > 0)


def _constant(n_channels: int, bits: int) -> NDArray[np.uint8]:
    return np.full(n_channels, bits, np.uint8)


def _uniform_bytes(layers: LayerTable, bits: int) -> int:
    return coded_bytes(layers, _constant(total_channels(layers), bits))
