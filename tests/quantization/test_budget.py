# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_quantization.budget import allocate, budget_bytes, coded_bytes, effective_bits
from pocketrec_quantization.layers import LayerShape, LayerTable, total_channels, total_weights
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable

SQUARE = (LayerShape("a", 4, 64), LayerShape("b", 2, 64))
MIXED = (LayerShape("a", 2, 3), LayerShape("b", 2, 16), LayerShape("c", 1, 40))


def uniform(layers: LayerTable, bits: int) -> np.ndarray:
    """Return the widths of a uniform plan."""
    return np.full(total_channels(layers), bits, np.uint8)


def size_of(codes: np.ndarray, layers: LayerTable, levels: LevelTable = DEFAULT_LEVELS) -> int:
    """Return the bytes that codes come to."""
    return coded_bytes(layers, levels.widths(codes))


def gain_of(codes: np.ndarray, gains: np.ndarray) -> float:
    """Return what codes gain over the lowest tier everywhere."""
    totals = np.concatenate([np.zeros((len(gains), 1)), np.cumsum(gains, axis=1)], axis=1)
    return float(totals[np.arange(len(gains)), codes.astype(int) - 1].sum())


def any_gains(layers: LayerTable, low: float = -10) -> st.SearchStrategy[np.ndarray]:
    """Draw gains for every channel."""
    return arrays(np.float64, (total_channels(layers), 2), elements=st.floats(low, 10))


class TestSizes:
    def test_bytes_by_hand(self) -> None:
        """Three 2-bit elements take a byte, sixteen 4-bit ones eight, and 4 for each scale."""
        widths = np.array([2, 8, 4, 0, 2], np.uint8)

        assert coded_bytes(MIXED, widths) == (1 + 4) + (3 + 4) + (8 + 4) + 0 + (10 + 4)

    @given(st.data())
    def test_effective_bits_is_8_bytes_per_weight(self, data: st.DataObject) -> None:
        """Effective bits are 8 times the coded bytes over the number of weights."""
        layers = tuple(data.draw(st.lists(st.from_type(LayerShape), min_size=1, max_size=1)))
        bits = st.sampled_from([0, 2, 4, 8])
        widths = data.draw(arrays(np.uint8, total_channels(layers), elements=bits))

        n_elements = layers[0].n_elements
        expected = sum(-(-n_elements * int(b) // 8) + 4 for b in widths if b)

        assert coded_bytes(layers, widths) == expected
        assert effective_bits(layers, widths) == 8 * expected / total_weights(layers)

    @pytest.mark.parametrize("layers", [SQUARE, MIXED])
    @pytest.mark.parametrize("bits", [0, 2, 4, 8])
    def test_uniform_plans_fit_their_budget_exactly(self, layers: LayerTable, bits: int) -> None:
        """The budget for an average of b bits is the size of the uniform plan of b bits."""
        assert budget_bytes(layers, bits) == coded_bytes(layers, uniform(layers, bits))

    def test_three_bits_by_hand(self) -> None:
        """Six channels of 64 elements at 3 bits are 144 bytes, and 24 of scales."""
        assert budget_bytes(SQUARE, 3.0) == 144 + 24

    @given(st.floats(0, 8), st.floats(0, 8))
    def test_budgets_rise_with_the_average(self, one: float, other: float) -> None:
        """More bits never make a smaller budget."""
        low, high = sorted([one, other])

        assert budget_bytes(MIXED, low) <= budget_bytes(MIXED, high)

    @pytest.mark.parametrize("average", [-0.1, 8.1, float("nan"), float("inf")])
    def test_averages_no_store_has(self, average: float) -> None:
        """An average outside 0 to 8 bits is refused."""
        with pytest.raises(ConfigError, match=r"average_bits: expected 0\.\.8"):
            budget_bytes(SQUARE, average)

    @pytest.mark.parametrize(
        "widths", [np.full(6, 3, np.uint8), np.full(5, 2, np.uint8), np.full((6, 1), 2, np.uint8)]
    )
    def test_widths_no_store_has(self, widths: np.ndarray) -> None:
        """Sizes are only known for one stored width per channel."""
        with pytest.raises(ConfigError, match="widths: expected"):
            coded_bytes(SQUARE, widths)


class TestAllocation:
    def test_the_dearest_channels_win(self) -> None:
        """With room for one upgrade, the channel that gains most per byte gets it."""
        gains = np.array([[1, 0], [3, 0], [2, 0], [0, 0], [0, 0], [0, 0]], np.float64)

        codes = allocate(gains, SQUARE, budget_bytes(SQUARE, 2) + 16)

        assert codes.tolist() == [1, 2, 1, 1, 1, 1]

    def test_ties_go_to_the_earlier_channel(self) -> None:
        """Equal gains upgrade channels in the order of layer and channel."""
        codes = allocate(np.ones((6, 2)), SQUARE, budget_bytes(SQUARE, 2) + 3 * 16)

        assert codes.tolist() == [2, 2, 2, 1, 1, 1]

    def test_an_upgrade_that_pays_only_with_the_next_is_taken_whole(self) -> None:
        """A channel with nothing to gain at 4 bits but much at 8 is not left behind."""
        gains = np.array([[0, 9], [1, 0], [1, 0], [0, 0], [0, 0], [0, 0]], np.float64)

        codes = allocate(gains, SQUARE, budget_bytes(SQUARE, 2) + 48)

        assert codes.tolist() == [3, 1, 1, 1, 1, 1]

    def test_a_merged_upgrade_that_does_not_fit_may_still_be_taken_in_half(self) -> None:
        """With bytes for 4 bits only, the first half is better than nothing."""
        gains = np.array([[1, 9], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], np.float64)

        codes = allocate(gains, SQUARE, budget_bytes(SQUARE, 2) + 16)

        assert codes.tolist() == [2, 1, 1, 1, 1, 1]

    def test_what_does_not_fit_is_skipped(self) -> None:
        """A wide channel that is too dear leaves its bytes to narrow ones further down."""
        gains = np.array([[1, 1], [1, 1], [1, 1], [1, 1], [90, 90]], np.float64)

        codes = allocate(gains, MIXED, budget_bytes(MIXED, 2) + 5)

        assert codes.tolist() == [3, 3, 1, 1, 1]

    def test_harmful_upgrades_are_never_taken(self) -> None:
        """A negative gain keeps a channel low however large the budget is."""
        gains = np.array([[-1, 0.5], [1, -1], [-1, 2], [0, 0], [1, 1], [1, 1]], np.float64)

        codes = allocate(gains, SQUARE, budget_bytes(SQUARE, 8))

        assert codes.tolist() == [1, 2, 3, 3, 3, 3]

    def test_tiers_of_equal_width_cost_nothing(self) -> None:
        """Under a table whose upper tiers are both 8 bits, the upper one is free."""
        levels = LevelTable((0, 4, 8, 8))

        codes = allocate(np.ones((6, 2)), SQUARE, 6 * (32 + 4) + 32, levels=levels)

        assert codes.tolist() == [3, 1, 1, 1, 1, 1]

    def test_pruning_makes_small_budgets_feasible(self) -> None:
        """When the lowest tier is 0 bits, even nothing is a budget."""
        levels = LevelTable((0, 0, 2, 4))

        assert allocate(np.ones((6, 2)), SQUARE, 0, levels=levels).tolist() == [1] * 6
        assert allocate(np.ones((6, 2)), SQUARE, 36, levels=levels).tolist() == [3, 1, 1, 1, 1, 1]

    def test_budgets_below_two_bits_are_infeasible(self) -> None:
        """One byte less than uniform 2 bits is refused, with both sizes."""
        minimum = coded_bytes(SQUARE, uniform(SQUARE, 2))

        with pytest.raises(InfeasibleBudgetError) as caught:
            allocate(np.ones((6, 2)), SQUARE, minimum - 1)

        assert (caught.value.requested_bytes, caught.value.minimum_bytes) == (minimum - 1, minimum)

    @pytest.mark.parametrize("gains", [np.ones((5, 2)), np.ones((6, 3)), np.full((6, 2), np.nan)])
    def test_gains_must_be_finite_and_complete(self, gains: np.ndarray) -> None:
        """Two finite gains per channel, or nothing."""
        with pytest.raises(ConfigError, match="gains: expected"):
            allocate(gains, SQUARE, 10_000)

    @given(any_gains(MIXED), st.floats(2, 8))
    def test_the_budget_holds_and_equal_input_gives_equal_codes(
        self, gains: np.ndarray, average: float
    ) -> None:
        """A plan never outgrows its budget, and cloud and device find the same one."""
        budget = budget_bytes(MIXED, average)

        codes = allocate(gains, MIXED, budget)

        assert size_of(codes, MIXED) <= budget
        np.testing.assert_array_equal(codes, allocate(gains.copy(), MIXED, budget))

    @given(any_gains(SQUARE, low=0), st.integers(0, 18))
    def test_a_representable_budget_is_met_exactly(
        self, gains: np.ndarray, n_upgrades: int
    ) -> None:
        """While a channel is left at 2 bits, not one upgrade's bytes are left over."""
        budget = budget_bytes(SQUARE, 2) + 16 * n_upgrades

        codes = allocate(gains, SQUARE, budget)

        assume((codes == 1).any())
        assert size_of(codes, SQUARE) == budget

    @given(any_gains(MIXED), st.floats(2, 8))
    def test_greedy_is_within_one_upgrade_of_the_optimum(
        self, gains: np.ndarray, average: float
    ) -> None:
        """Against every one of the 243 plans there are: optimum minus greedy <= one upgrade."""
        budget = budget_bytes(MIXED, average)
        every = (np.array(codes, np.uint8) for codes in itertools.product([1, 2, 3], repeat=5))
        optimum = max(gain_of(codes, gains) for codes in every if size_of(codes, MIXED) <= budget)

        greedy = gain_of(allocate(gains, MIXED, budget), gains)

        largest = max(0.0, gains.max(), gains.sum(axis=1).max())
        assert optimum - largest - 1e-9 <= greedy <= optimum + 1e-9
