# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import InfeasibleBudgetError
from pocketrec_quantization.coclustering.budget import Budget, search_resolution
from pocketrec_quantization.coclustering.options import Sides


class TestSize:
    def test_rows_of_counted_sides_are_added(self) -> None:
        """A budget of rows counts rows of the sides that were named."""
        sizes = [
            Budget(limit=1, row_bytes=None, counted=Sides(side)).size((3, 5), (100, 200))
            for side in ("both", "users", "items")
        ]

        assert sizes == [8, 3, 5]

    def test_bytes_include_row_numbers(self) -> None:
        """Every entity has one or two row numbers, of 2 bytes up to 65,536 rows, else of 4."""
        budget = Budget(limit=1, row_bytes=10, counted=Sides.BOTH, numbers=(2, 1))

        small, large = budget.size((3, 5), (100, 200)), budget.size((65_537, 65_536), (10, 10))

        assert small == 8 * 10 + 2 * (2 * 100 + 200)
        assert large == 131_073 * 10 + 2 * 4 * 10 + 2 * 10


class TestSearch:
    @given(
        limit=st.integers(60, 10_000),
        power=st.floats(0.3, 3),
        start=st.floats(1e-3, 1e3),
    )
    def test_a_smooth_budget_is_filled_and_never_exceeded(
        self, limit: int, power: float, start: float
    ) -> None:
        """Where sizes grow smoothly, the search ends close below the limit."""
        tried = []

        def solve(resolution: float) -> tuple[int, int]:
            size = min(20_000, 3 + int(50 * resolution**power))
            tried.append(size)
            return size, size

        found = search_resolution(solve, limit=limit, start=start, highest=1e30)

        assert found <= limit
        assert found >= 0.97 * limit - 1
        assert len(tried) <= 25

    def test_jumps_leave_the_largest_that_fits(self) -> None:
        """Where no resolution fills the budget, the best below it is returned."""
        found = search_resolution(
            lambda r: (2, "few") if r < 7 else (100, "many"), limit=50, start=1, highest=1e9
        )

        assert found == "few"

    def test_a_generous_budget_ends_at_once(self) -> None:
        """At the highest resolution nothing more can be had."""
        tried: list[float] = []

        def solve(resolution: float) -> tuple[int, float]:
            tried.append(resolution)
            return 10, resolution

        assert search_resolution(solve, limit=99, start=1, highest=64) == pytest.approx(64)
        assert tried == pytest.approx([1, 8, 64])

    def test_no_balance_is_the_last_resort(self) -> None:
        """Where every resolution is too large, 0 is tried, and taken if it fits."""
        assert search_resolution(lambda r: (9 if r else 3, r), limit=3, start=1, highest=64) == 0

    def test_an_impossible_budget_names_the_minimum(self) -> None:
        """The error says what would be enough."""
        with pytest.raises(InfeasibleBudgetError) as caught:
            search_resolution(lambda r: (9 + math.ceil(r), r), limit=3, start=1, highest=64)

        assert (caught.value.requested_bytes, caught.value.minimum_bytes) == (3, 9)
