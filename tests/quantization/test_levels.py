# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_quantization.levels import (
    DEFAULT_LEVELS,
    SPEED_PRESETS,
    LevelTable,
    count_widths,
    preset_levels,
)


def test_default_tiers_are_2_4_and_8_bits() -> None:
    """Codes 1, 2, 3 stand for 2, 4 and 8 bits."""
    widths = DEFAULT_LEVELS.widths(np.array([3, 1, 2], np.uint8))

    assert widths.tolist() == [8, 2, 4]
    assert widths.dtype == np.uint8


def test_one_plan_serves_several_device_classes() -> None:
    """The same codes mean fewer bits under a battery saver's table."""
    codes = np.array([1, 2, 3], np.uint8)

    assert LevelTable((0, 0, 2, 4)).widths(codes).tolist() == [0, 2, 4]
    assert LevelTable((0, 4, 8, 8)).widths(codes).tolist() == [4, 8, 8]


@pytest.mark.parametrize("code", [0, 4, 255])
def test_codes_that_are_no_tier_are_refused(code: int) -> None:
    """The reserved code 0 and what 2 bits cannot hold have no width."""
    with pytest.raises(ConfigError, match=f"got {code} for channel 1"):
        DEFAULT_LEVELS.widths(np.array([1, code], np.uint8))


def test_the_lowest_of_equal_tiers_is_found() -> None:
    """Where two tiers mean 8 bits, the cheaper promise is returned."""
    assert LevelTable((0, 4, 8, 8)).code_of(8) == 2


def test_pruning_never_means_the_reserved_code() -> None:
    """0 bits is no tier of the default table, although entry 0 reads 0."""
    with pytest.raises(ConfigError, match="no tier"):
        DEFAULT_LEVELS.code_of(0)


@pytest.mark.parametrize(
    "bits",
    [
        pytest.param((2, 2, 4, 8), id="reserved entry is used"),
        pytest.param((0, 4, 2, 8), id="falling"),
        pytest.param((0, 2, 4, 6), id="width no store has"),
        pytest.param((0, 0, 0, 0), id="everything pruned"),
        pytest.param((0, 2, 4), id="too few"),
        pytest.param((0, 2, 4, 8, 8), id="too many"),
        pytest.param((0, 2, 4, 8.0), id="floats"),
        pytest.param((False, 2, 4, 8), id="booleans"),
        pytest.param((), id="empty"),
    ],
)
def test_impossible_tables_are_refused(bits: Any) -> None:
    """A level table is 0 and three widths of a store that never fall."""
    with pytest.raises(ConfigError, match="levels: expected"):
        LevelTable(bits)


class TestPresets:
    def test_are_these_three(self) -> None:
        """An app chooses between fewer bits, the plan's own, and more."""
        assert {
            "battery_saver": LevelTable((0, 0, 2, 4)),
            "balanced": None,
            "full": LevelTable((0, 4, 8, 8)),
        } == SPEED_PRESETS

    def test_balanced_is_the_plans_own_table(self) -> None:
        """A plan that was made for other widths keeps them."""
        own = LevelTable((0, 2, 2, 8))

        assert preset_levels("balanced", own) is own

    @pytest.mark.parametrize("preset", ["battery_saver", "full"])
    @pytest.mark.parametrize("own", [DEFAULT_LEVELS, LevelTable((0, 2, 2, 2))])
    def test_others_replace_the_plans_table(self, preset: str, own: LevelTable) -> None:
        """Whatever the tiers of a plan meant, the preset decides."""
        assert preset_levels(preset, own) == SPEED_PRESETS[preset]

    def test_more_speed_never_means_more_bits(self) -> None:
        """Every tier of the saver has at most the bits of the default, and those at most full's."""
        saver, default, full = (
            preset_levels(name, DEFAULT_LEVELS).bits
            for name in ("battery_saver", "balanced", "full")
        )

        for tier in range(4):
            assert saver[tier] <= default[tier] <= full[tier]

    @pytest.mark.parametrize("preset", ["", "Full", "fast"])
    def test_unknown_ones_are_refused(self, preset: str) -> None:
        """The message lists what there is."""
        with pytest.raises(ConfigError, match=r"balanced.*battery_saver.*full"):
            preset_levels(preset, DEFAULT_LEVELS)

    def test_cannot_be_changed(self) -> None:
        """The table is the same for all parts of a process."""
        with pytest.raises(TypeError, match="item assignment"):
            SPEED_PRESETS["full"] = DEFAULT_LEVELS  # type: ignore[index]  # read-only


def test_widths_are_counted_narrowest_first() -> None:
    """Reports and packed layers list widths in rising order, as plain integers."""
    counted = count_widths(np.array([8, 2, 0, 8, 2, 8], np.uint8))

    assert list(counted.items()) == [(0, 1), (2, 2), (8, 3)]
    assert all(type(bits) is int for bits in counted)
    assert count_widths(np.array([], np.uint8)) == {}
