# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable


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
