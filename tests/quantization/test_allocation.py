# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_quantization.allocation import Slots, allocate_scores, allocate_slots
from pocketrec_quantization.budget import budget_bytes, coded_bytes, tier_costs
from pocketrec_quantization.layers import LayerShape, LayerTable, total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable

SQUARE = (LayerShape("a", 4, 64), LayerShape("b", 2, 64))  # upgrades cost 16 and 32 bytes
MIXED = (LayerShape("a", 2, 8), LayerShape("b", 2, 64))  # 2 and 4 bytes, then 16 and 32
FALLING = np.array([[6, 5, 4, 3, 2, 1]], np.float32)
LEAST = 6 * 20


def of(*scores: float) -> np.ndarray:
    """Return the scores of one user."""
    return np.array([scores], np.float32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw scores with many ties, layers, a level table, a feasible budget and a share."""
    layers: Any = draw(st.lists(st.from_type(LayerShape), min_size=1, max_size=3))
    layers = tuple(LayerShape(f"l{i}", s.n_channels, s.n_elements) for i, s in enumerate(layers))
    levels: Any = draw(st.from_type(LevelTable))
    few = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 1e-40, 1.0, 3.0])
    elements = draw(st.sampled_from([few, st.floats(-4, 4, width=32)]))
    shape = (draw(st.integers(0, 3)), total_channels(layers))
    scores = draw(arrays(np.float32, shape, elements=elements))
    minimum, costs = tier_costs(layers, levels)
    budget = draw(st.integers(minimum, minimum + int(costs.sum()) + 1))
    return scores, layers, budget, levels, draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))


def oracle(
    scores: list[float], layers: LayerTable, budget: int, levels: LevelTable, share: float
) -> list[int]:
    """Return the codes of one user, channel by channel as the documentation says."""
    minimum, costs = tier_costs(layers, levels)
    order = sorted(range(len(scores)), key=lambda channel: (-scores[channel], channel))
    codes, left = [1] * len(scores), budget - minimum

    def raise_in_order(from_code: int, to_code: int, limit: int) -> int:
        spent = 0
        for channel in order:
            if codes[channel] == from_code:
                cost = sum(costs[channel, from_code - 1 : to_code - 1].tolist())
                if spent + cost > limit:
                    break
                spent += cost
                codes[channel] = to_code
        return spent

    left -= raise_in_order(1, 3, math.floor(left * share))
    left -= raise_in_order(1, 2, left)
    if 1 not in codes:
        raise_in_order(2, 3, left)
    return codes


class TestByHand:
    """One user, six channels of 64 elements."""

    def test_half_of_what_is_left_buys_the_highest_tier(self) -> None:
        """Of 96 bytes one channel takes 48; three more take 16 each."""
        codes = allocate_scores(FALLING, SQUARE, LEAST + 96)

        assert codes.tolist() == [[3, 2, 2, 2, 1, 1]]
        assert codes.dtype == np.uint8

    @pytest.mark.parametrize(
        ("share", "expected"),
        [(0.0, [2, 2, 2, 2, 2, 2]), (0.5, [3, 2, 2, 2, 1, 1]), (1.0, [3, 3, 1, 1, 1, 1])],
    )
    def test_the_share_decides_between_few_and_many(
        self, share: float, expected: list[int]
    ) -> None:
        """From everybody a little to few very much, for the same bytes."""
        codes = allocate_scores(FALLING, SQUARE, LEAST + 96, high_share=share)

        assert codes.tolist() == [expected]

    def test_what_nobody_else_can_use_goes_to_the_top(self) -> None:
        """When all have the middle tier, the rest buys the highest, whatever the share."""
        codes = allocate_scores(FALLING, SQUARE, LEAST + 96 + 2 * 32, high_share=0.0)

        assert codes.tolist() == [[3, 3, 2, 2, 2, 2]]

    def test_ties_go_to_the_earlier_channel(self) -> None:
        """Among equals, and both zeros are equal."""
        codes = allocate_scores(of(0.0, -0.0, 0.0, -0.0, 0.0, -0.0), SQUARE, LEAST + 96)

        assert codes.tolist() == [[3, 2, 2, 2, 1, 1]]

    def test_negative_scores_are_below_positive_ones(self) -> None:
        """And the least negative of them comes first."""
        codes = allocate_scores(of(-3, -1, 2, -2, 1e-40, -1e-40), SQUARE, LEAST + 96)

        assert codes.tolist() == [[1, 2, 3, 1, 2, 2]]

    def test_a_dear_channel_ends_a_tier(self) -> None:
        """What comes after it in the order gets no more than it has."""
        codes = allocate_scores(of(1, 0, 3, 2), MIXED, 2 * 6 + 2 * 20 + 17, high_share=0.0)

        assert codes.tolist() == [[1, 1, 2, 1]]

    def test_nobody_is_a_user(self) -> None:
        """No scores, no plans."""
        assert allocate_scores(np.zeros((0, 6), np.float32), SQUARE, LEAST).shape == (0, 6)

    def test_many_users_are_planned_one_by_one(self) -> None:
        """More than fit a block, each as if alone."""
        scores = np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)

        together = allocate_scores(scores, SQUARE, LEAST + 96)

        for row, codes in zip(scores, together, strict=True):
            assert allocate_scores(row[None], SQUARE, LEAST + 96)[0].tolist() == codes.tolist()


class TestProperties:
    """Whatever the scores, layers, level table, budget and share."""

    @given(cases())
    def test_it_is_what_the_documentation_says(self, case: tuple[Any, ...]) -> None:
        """Code for code."""
        scores, layers, budget, levels, share = case

        codes = allocate_scores(scores, layers, budget, levels=levels, high_share=share)

        expected = [oracle(row, layers, budget, levels, share) for row in scores.tolist()]
        assert codes.tolist() == expected

    @given(cases())
    def test_the_budget_is_kept_and_used(self, case: tuple[Any, ...]) -> None:
        """What is left is less than the next channel's upgrade."""
        scores, layers, budget, levels, share = case
        costs = tier_costs(layers, levels)[1]

        for row, codes in zip(
            scores,
            allocate_scores(scores, layers, budget, levels=levels, high_share=share),
            strict=True,
        ):
            left = budget - coded_bytes(layers, levels.widths(codes))
            lowest = codes.min()
            waiting = [c for c in np.argsort(-row, kind="stable") if codes[c] == lowest]
            assert left >= 0
            assert lowest == 3 or left < costs[waiting[0], lowest - 1]

    @given(cases())
    def test_a_higher_score_never_has_a_lower_tier(self, case: tuple[Any, ...]) -> None:
        """Down the order, tiers never rise."""
        scores, layers, budget, levels, share = case

        codes = allocate_scores(scores, layers, budget, levels=levels, high_share=share)

        order = np.argsort(-scores, axis=1, kind="stable")
        assert (np.diff(np.take_along_axis(codes, order, axis=1).astype(int), axis=1) <= 0).all()


class TestPrunedTiers:
    """Level tables whose lowest tier is 0 bits."""

    LEVELS = LevelTable((0, 0, 2, 4))

    def test_no_byte_prunes_everything(self) -> None:
        """The least that any plan costs."""
        assert allocate_scores(FALLING, SQUARE, 0, levels=self.LEVELS).tolist() == [[1] * 6]

    def test_a_first_upgrade_brings_the_scale_along(self) -> None:
        """20 bytes from 0 to 2 bits, 16 more to 4."""
        codes = allocate_scores(FALLING, SQUARE, 36 + 20, levels=self.LEVELS, high_share=0.7)

        assert codes.tolist() == [[3, 2, 1, 1, 1, 1]]


class TestRefusals:
    """What no plan can be made of."""

    @pytest.mark.parametrize(
        "scores",
        [
            np.zeros((1, 5), np.float32),
            np.zeros(6, np.float32),
            np.full((1, 6), np.nan, np.float32),
            np.full((1, 6), np.inf, np.float32),
            np.zeros((1, 6), np.float64),
        ],
    )
    def test_scores_are_finite_float32_for_every_channel(self, scores: np.ndarray) -> None:
        """Neither too few, nor NaN, nor of another type."""
        with pytest.raises(ConfigError, match=r"scores: expected finite float32 \(B, 6\)"):
            allocate_scores(scores, SQUARE, LEAST)

    def test_a_budget_below_the_lowest_tier_names_field_and_range(self) -> None:
        """So that whoever asked knows what to ask for."""
        with pytest.raises(InfeasibleBudgetError, match="budget_bytes: expected 120 to 408") as e:
            allocate_scores(FALLING, SQUARE, LEAST - 1)

        assert (e.value.requested_bytes, e.value.minimum_bytes) == (119, 120)

    @pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
    def test_a_share_is_0_to_1(self, share: float) -> None:
        """NaN is none."""
        with pytest.raises(ConfigError, match=r"high_share: expected 0\.\.1"):
            allocate_scores(FALLING, SQUARE, LEAST, high_share=share)


class TestSlots:
    """As many channels per layer and tier as a given plan has."""

    def test_the_best_of_each_layer_fill_them(self) -> None:
        """In the first layer one, one and two; in the second none, one and one."""
        slots = Slots.of_plan(np.array([1, 2, 3, 1, 2, 1], np.uint8), SQUARE)

        codes = allocate_slots(of(0, 4, 2, 3, 9, 9), slots)

        assert slots.counts.tolist() == [[2, 1, 1], [1, 1, 0]]
        assert codes.tolist() == [[1, 3, 1, 2, 2, 1]]

    @given(st.integers(0, 2**32 - 1))
    def test_every_user_costs_the_same(self, seed: int) -> None:
        """However different the plans are."""
        rng = np.random.default_rng(seed)
        model = rng.integers(1, 4, 6).astype(np.uint8)

        codes = allocate_slots(
            rng.normal(size=(3, 6)).astype(np.float32), Slots.of_plan(model, SQUARE)
        )

        for row in codes:
            assert Slots.of_plan(row, SQUARE).counts.tolist() == (
                Slots.of_plan(model, SQUARE).counts.tolist()
            )

    @pytest.mark.parametrize(
        "counts", [[[2, 1, 1]], [[2, 1, 2], [1, 1, 0]], [[5, -1, 0], [1, 1, 0]]]
    )
    def test_they_fit_the_layers(self, counts: list[list[int]]) -> None:
        """One row per layer, adding up to its channels."""
        with pytest.raises(ConfigError, match="counts: expected"):
            Slots(np.array(counts, np.int64), SQUARE)

    def test_scores_fit_them(self) -> None:
        """One for every channel."""
        slots = Slots.of_plan(np.ones(6, np.uint8), SQUARE)

        with pytest.raises(ConfigError, match="scores: expected"):
            allocate_slots(np.zeros((1, 5), np.float32), slots)


def test_three_bits_of_equal_channels() -> None:
    """Half of the bytes above 2 bits to the highest tier: a twelfth of all, and a quarter."""
    layers = (LayerShape("a", 96, 64),)
    scores = np.random.default_rng(0).normal(size=(1, 96)).astype(np.float32)

    codes = allocate_scores(scores, layers, budget_bytes(layers, 3.0))[0]

    assert np.bincount(codes, minlength=4).tolist() == [0, 64, 24, 8]
    assert DEFAULT_LEVELS.widths(codes).mean() == 3.0
