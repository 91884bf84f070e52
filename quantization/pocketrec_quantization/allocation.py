# SPDX-License-Identifier: Apache-2.0
"""Turns one importance score per channel into codes that fit a byte budget, many users at once.

All channels of a model are put into one descending order. From its start, channels get the
highest tier, then the middle one, until the bytes are spent; the rest keeps the lowest.
Costs are integers and ties go to the earlier channel, so that whoever is given the same
scores finds the same codes, be it with NumPy or with PyTorch.

Source: CHORD for one order over all channels; bytes as costs and the split of the budget
are our choice. ``allocate`` spends a budget on *gains*, which say what each tier is worth;
scores only say which channels matter more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_quantization.budget import tier_costs
from pocketrec_quantization.layers import LayerTable, total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable
from pocketrec_quantization.limits import MAX_TOTAL_CHANNELS

__all__ = ["DEFAULT_HIGH_SHARE", "Slots", "Spending", "allocate_scores", "allocate_slots"]

DEFAULT_HIGH_SHARE = 0.5
"""Share of what is left above the lowest tier that goes to the highest one."""

_USERS_AT_ONCE = 64  # so that what is sorted stays in a core's cache
_CHANNEL_BITS = (MAX_TOTAL_CHANNELS - 1).bit_length()
_CHANNEL_MASK = np.int64((1 << _CHANNEL_BITS) - 1)
_BELOW_ALL_KEYS = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spending:
    """What tiers cost, and what may be spent on them; the same for all users.

    Attributes:
        first_bytes: (C_total,) int64, from tier 1 to 2.
        second_bytes: (C_total,) int64, from tier 2 to 3.
        left_bytes: What remains of the budget with every channel at tier 1.
        high_bytes: How much of it may go to tier 3 before the others reach tier 2.
    """

    first_bytes: NDArray[np.int64]
    second_bytes: NDArray[np.int64]
    left_bytes: int
    high_bytes: int

    @classmethod
    def of(
        cls,
        layers: LayerTable,
        budget_bytes: int,
        *,
        levels: LevelTable = DEFAULT_LEVELS,
        high_share: float = DEFAULT_HIGH_SHARE,
    ) -> Spending:
        """Work out a budget.

        Args:
            layers: The model's layers.
            budget_bytes: Upper bound of a plan's coded bytes, scales included.
            levels: What the tiers mean in bits.
            high_share: Share of the bytes above tier 1 that goes to tier 3 first, 0..1.

        Raises:
            ConfigError: ``high_share`` is outside 0..1.
            InfeasibleBudgetError: Not even tier 1 everywhere fits.
        """
        if not 0 <= high_share <= 1:
            raise ConfigError(f"high_share: expected 0..1, got {high_share!r}")
        minimum, costs = tier_costs(layers, levels)
        if budget_bytes < minimum:
            maximum = minimum + int(costs.sum())
            raise InfeasibleBudgetError(
                f"budget_bytes: expected {minimum} to {maximum}, {levels.bits[1]} to "
                f"{levels.bits[3]} bits everywhere, got {budget_bytes}; raise the budget",
                requested_bytes=budget_bytes,
                minimum_bytes=minimum,
            )
        left = budget_bytes - minimum
        return cls(
            first_bytes=costs[:, 0],
            second_bytes=costs[:, 1],
            left_bytes=left,
            high_bytes=math.floor(left * high_share),
        )


def allocate_scores(
    scores: NDArray[np.float32],
    layers: LayerTable,
    budget_bytes: int,
    *,
    levels: LevelTable = DEFAULT_LEVELS,
    high_share: float = DEFAULT_HIGH_SHARE,
) -> NDArray[np.uint8]:
    """Give the tiers to the channels that matter most, user by user.

    What is left of the budget is less than the next channel's upgrade costs.

    Args:
        scores: (B, C_total) float32, finite; higher matters more.
        layers: The model's layers.
        budget_bytes: Upper bound of each plan's coded bytes, scales included.
        levels: What the tiers mean in bits.
        high_share: Share of the bytes above tier 1 that goes to tier 3 first, 0..1.

    Returns:
        (B, C_total) uint8, codes 1..3. Takes O(B C log C).

    Raises:
        ConfigError: ``scores`` has another shape or type, or is not finite, or ``high_share`` is
            outside 0..1.
        InfeasibleBudgetError: Not even the lowest tier everywhere fits.
    """
    _check_scores(scores, layers)
    spending = Spending.of(layers, budget_bytes, levels=levels, high_share=high_share)
    codes = np.empty(scores.shape, np.uint8)
    for start in range(0, len(scores), _USERS_AT_ONCE):
        block = slice(start, start + _USERS_AT_ONCE)
        codes[block] = _codes_of(scores[block], spending)
    return codes


def _codes_of(scores: NDArray[np.float32], spending: Spending) -> NDArray[np.uint8]:
    """Return (B, C_total) uint8, codes 1..3."""
    keys = _sort_keys(scores)
    ranked = np.sort(keys, axis=1)
    order = ranked & _CHANNEL_MASK
    first = np.cumsum(spending.first_bytes[order], axis=1)
    second = np.cumsum(spending.second_bytes[order], axis=1)
    affordable = (first + second <= spending.high_bytes).sum(axis=1)
    spare = spending.left_bytes - int(spending.first_bytes.sum())
    n_high = np.maximum(affordable, (second <= spare).sum(axis=1))
    spent_on_high = np.where(n_high > 0, _before(second, n_high), 0)
    n_raised = (first <= (spending.left_bytes - spent_on_high)[:, None]).sum(axis=1)
    codes = np.ones(scores.shape, np.uint8)
    for n_above in (n_raised, n_high):
        last = np.where(n_above > 0, _before(ranked, n_above), _BELOW_ALL_KEYS)
        codes += (keys <= last[:, None]).view(np.uint8)
    return codes


def _sort_keys(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return (B, C) int64, no two alike in a row: a channel that matters more comes first.

    The bits of finite float32 are ordered like their values once those of negative numbers
    are turned around, and the channel below them breaks ties. Sorting such numbers is
    several times as fast as a stable sort of positions.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 makes one zero of two
    rising = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (~rising).astype(np.int64) << _CHANNEL_BITS
    keys |= np.arange(scores.shape[1])
    return keys


def _before(rows: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last entry before each row's end; the first where there is none, (B,)."""
    return np.take_along_axis(rows, np.maximum(ends - 1, 0)[:, None], axis=1)[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """How many channels of each layer have each tier: what a static graph fixes.

    Args:
        counts: (n_layers, 3) int64, channels of tier 1, 2 and 3.
        layers: The model's layers.

    Raises:
        ConfigError: The counts of a layer are negative or do not add up to its channels.
    """

    counts: NDArray[np.int64]
    layers: LayerTable

    def __post_init__(self) -> None:
        sizes = np.array([layer.n_channels for layer in self.layers], np.int64)
        if self.counts.shape != (sizes.size, 3) or (self.counts < 0).any():
            raise ConfigError(f"counts: expected ({sizes.size}, 3) from 0, got {self.counts.shape}")
        if not np.array_equal(self.counts.sum(axis=1), sizes):
            raise ConfigError("counts: expected every layer's to add up to its channels")

    @classmethod
    def of_plan(cls, codes: NDArray[np.uint8], layers: LayerTable) -> Slots:
        """Return the slots that one plan fills.

        Args:
            codes: (C_total,) uint8, codes 1..3.
            layers: The model's layers.
        """
        ends = np.cumsum([layer.n_channels for layer in layers])[:-1]
        counts = [np.bincount(part, minlength=4)[1:4] for part in np.split(codes, ends)]
        return cls(np.array(counts, np.int64), layers)


def allocate_slots(scores: NDArray[np.float32], slots: Slots) -> NDArray[np.uint8]:
    """Fill fixed slots: in every layer the channels that matter most get the high tiers.

    Args:
        scores: (B, C_total) float32, finite; higher matters more.
        slots: How many channels of a layer get which tier.

    Returns:
        (B, C_total) uint8, codes 1..3; each plan costs what the slots cost.

    Raises:
        ConfigError: ``scores`` has another shape or type, or is not finite.

    Source:
        Our choice, for runtimes whose graphs fix the number of channels per width.
    """
    _check_scores(scores, slots.layers)
    ends = np.cumsum([layer.n_channels for layer in slots.layers])[:-1]
    parts = []
    for own, counts in zip(np.split(scores, ends, axis=1), slots.counts, strict=True):
        order = np.argsort(-own, axis=1, kind="stable")
        tiers = np.repeat(np.array([3, 2, 1], np.uint8), counts[::-1])
        codes = np.empty(own.shape, np.uint8)
        np.put_along_axis(codes, order, np.broadcast_to(tiers, own.shape), axis=1)
        parts.append(codes)
    return np.concatenate(parts, axis=1)


def _check_scores(scores: NDArray[np.float32], layers: LayerTable) -> None:
    expected = total_channels(layers)
    has_shape = scores.ndim == 2 and scores.shape[1] == expected
    if not has_shape or scores.dtype != np.float32 or not np.isfinite(scores).all():
        raise ConfigError(
            f"scores: expected finite float32 (B, {expected}), got {scores.dtype} {scores.shape}"
        )
