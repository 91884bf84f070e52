# SPDX-License-Identifier: Apache-2.0
"""What the three usable tiers of a plan mean in bits.

A code is a *tier* of importance, not a width: 1 matters least, 3 most. A level table
turns tiers into widths, so one plan serves several device classes without a download.
Code 0 is reserved. A tier may mean 0 bits: such a channel is pruned to zeros.

Source: CHORD overview figure for {1: 2, 2: 4, 3: 8}; tiers apart from widths are our choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError

__all__ = [
    "DEFAULT_LEVELS",
    "N_CODES",
    "PRUNING_LEVELS",
    "SPEED_PRESETS",
    "WIDTHS",
    "LevelTable",
    "check_codes",
    "count_widths",
    "preset_levels",
]

N_CODES = 4
"""Values a 2-bit code can take, the reserved 0 included."""

WIDTHS = (0, 2, 4, 8)
"""Widths in bits a tier may stand for; 0 prunes the channel."""


@dataclass(frozen=True, slots=True)
class LevelTable:
    """Width in bits of every code.

    Args:
        bits: Indexed by code. Entry 0 is reserved and 0; the others never decrease.

    Raises:
        ConfigError: ``bits`` is no such table.
    """

    bits: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if not _is_level_table(self.bits):
            raise ConfigError(
                "levels: expected 4 widths, the first 0 and reserved, the others from "
                f"{WIDTHS} and never decreasing, such as (0, 2, 4, 8); got {self.bits!r}"
            )

    def widths(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Look up the width of every code.

        Args:
            codes: (C,) uint8, each 1..3.

        Returns:
            (C,) uint8, bits.

        Raises:
            ConfigError: A code is 0 (reserved) or above 3.
        """
        check_codes(codes)
        return np.array(self.bits, np.uint8)[codes]

    def code_of(self, bits: int) -> int:
        """Return the lowest tier that stands for ``bits``.

        Raises:
            ConfigError: No tier does.
        """
        for code in range(1, N_CODES):
            if self.bits[code] == bits:
                return code
        raise ConfigError(
            f"no tier of {self.bits} stands for {bits} bits; use one of {self.bits[1:]}"
        )


def _is_level_table(bits: tuple[object, ...]) -> bool:
    widths = [width for width in bits if type(width) is int and width in WIDTHS]
    return (
        len(widths) == len(bits) == N_CODES
        and widths[0] == 0
        and widths == sorted(widths)
        and any(widths)
    )


def check_codes(codes: NDArray[np.uint8]) -> None:
    """Refuse codes that are no tier.

    Args:
        codes: (C,) uint8.

    Raises:
        ConfigError: A code is 0 (reserved) or above 3, or the array is not uint8.
    """
    if codes.dtype != np.uint8:
        raise ConfigError(f"codes: expected uint8, got {codes.dtype}")
    wrong = np.flatnonzero((codes == 0) | (codes >= N_CODES))
    if wrong.size:
        raise ConfigError(
            f"codes: expected 1, 2 or 3 (0 is reserved), got {codes.flat[wrong[0]]} "
            f"for channel {wrong[0]}"
        )


def count_widths(widths: NDArray[np.uint8]) -> dict[int, int]:
    """Return how many channels have each width: bits to number, narrowest first.

    Args:
        widths: (C,) uint8, bits per channel.
    """
    return dict(sorted(Counter(widths.tolist()).items()))


def preset_levels(preset: str, own: LevelTable) -> LevelTable:
    """Return what the tiers of a plan mean under a speed preset.

    Args:
        preset: One of :data:`SPEED_PRESETS`.
        own: The plan's own table.

    Raises:
        ConfigError: There is no such preset.
    """
    if preset not in SPEED_PRESETS:
        raise ConfigError(f"preset: expected one of {sorted(SPEED_PRESETS)}, got {preset!r}")
    return SPEED_PRESETS[preset] or own


DEFAULT_LEVELS = LevelTable((0, 2, 4, 8))
"""The level table of the CHORD figure."""

PRUNING_LEVELS = LevelTable((0, 0, 4, 8))
"""Tier 1 is pruned: such channels cost nothing, and what is left has 4 or 8 bits."""

SPEED_PRESETS: Mapping[str, LevelTable | None] = MappingProxyType(
    {
        "balanced": None,
        "battery_saver": LevelTable((0, 0, 2, 4)),
        "full": LevelTable((0, 4, 8, 8)),
    }
)
"""Level tables that a device may apply to any plan, by name; None is the plan's own.

Source: CHORD lets a device decode a plan by its own resource budget; the tables are our
choice.
"""
