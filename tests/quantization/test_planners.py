# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import ConfigError, InfeasibleBudgetError, MalformedArtifactError
from pocketrec_quantization.budget import allocate, budget_bytes, coded_bytes
from pocketrec_quantization.control_planners import MeanPlanner, ShuffledPlanner
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.planners import (
    GlobalPlanner,
    Planner,
    RandomPlanner,
    UniformPlanner,
    sensitivity_from_bytes,
    sensitivity_to_bytes,
)

LAYERS = (LayerShape("a", 8, 16), LayerShape("b", 4, 32))
SENSITIVITY = np.sort(np.random.default_rng(0).random((12, 3)), axis=1)[:, ::-1].copy()
USERS = np.zeros((3, 4), np.float32)
RANDOM = RandomPlanner(LAYERS, seed=0)
STRANGERS = np.eye(5, 4, dtype=np.float32)
PLANNERS = [
    pytest.param(UniformPlanner(LAYERS, 2), id="uniform-2"),
    pytest.param(RANDOM, id="random"),
    pytest.param(GlobalPlanner(LAYERS, SENSITIVITY), id="global"),
    pytest.param(MeanPlanner(planner=RANDOM, layers=LAYERS, sample=STRANGERS), id="mean"),
    pytest.param(ShuffledPlanner(planner=RANDOM, strangers=STRANGERS, seed=0), id="shuffled"),
]


def test_random_needs_a_seed_from_zero() -> None:
    """A negative seed is the caller's mistake."""
    with pytest.raises(ConfigError, match="seed"):
        RandomPlanner(LAYERS, seed=-1)


@pytest.mark.parametrize("planner", PLANNERS)
class TestEveryPlanner:
    def test_one_plan_per_user_within_the_budget(self, planner: Planner) -> None:
        """B users get B plans of codes 1 to 3, none above the budget."""
        budget = budget_bytes(LAYERS, 3.0)

        codes = planner.plan(USERS, budget)

        assert codes.shape == (3, 12)
        assert codes.dtype == np.uint8
        assert all(coded_bytes(LAYERS, DEFAULT_LEVELS.widths(row)) <= budget for row in codes)

    def test_users_may_be_unknown(self, planner: Planner) -> None:
        """Nothing known about a user, or no user at all, is fine."""
        budget = budget_bytes(LAYERS, 3.0)

        assert planner.plan([None, USERS[0]], budget).shape == (2, 12)
        assert planner.plan([], budget).shape == (0, 12)

    def test_equal_calls_give_equal_plans(self, planner: Planner) -> None:
        """Planners keep no state between calls."""
        budget = budget_bytes(LAYERS, 3.0)

        np.testing.assert_array_equal(planner.plan(USERS, budget), planner.plan(USERS, budget))

    def test_impossible_budgets_are_refused(self, planner: Planner) -> None:
        """Below uniform 2 bits there is no plan."""
        with pytest.raises(InfeasibleBudgetError):
            planner.plan(USERS, budget_bytes(LAYERS, 2.0) - 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_plans_need_exactly_their_size(bits: int) -> None:
    """A uniform planner accepts its own size and nothing below it."""
    planner = UniformPlanner(LAYERS, bits)

    codes = planner.plan([None], planner.needed_bytes)

    assert planner.name == f"uniform-{bits}"
    assert planner.needed_bytes == budget_bytes(LAYERS, bits)
    assert set(DEFAULT_LEVELS.widths(codes[0]).tolist()) == {bits}
    with pytest.raises(InfeasibleBudgetError):
        planner.plan([None], planner.needed_bytes - 1)


def test_uniform_widths_are_those_of_the_level_table() -> None:
    """There is no uniform plan of 3 bits."""
    with pytest.raises(ConfigError, match="no tier"):
        UniformPlanner(LAYERS, 3)


def test_random_plans_differ_between_users_and_seeds() -> None:
    """Every user gets a plan of their own, and so does every seed."""
    budget = budget_bytes(LAYERS, 3.0)

    first, second = RandomPlanner(LAYERS, seed=0).plan(USERS[:2], budget)
    other = RandomPlanner(LAYERS, seed=1).plan(USERS[:1], budget)[0]

    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_global_plan_spends_on_what_hurts_most() -> None:
    """The planner's gains are the losses that an upgrade saves."""
    budget = budget_bytes(LAYERS, 3.0)

    codes = GlobalPlanner(LAYERS, SENSITIVITY).plan([None], budget)[0]

    np.testing.assert_array_equal(codes, allocate(-np.diff(SENSITIVITY), LAYERS, budget))


@pytest.mark.parametrize("sensitivity", [np.ones((11, 3)), np.full((12, 3), np.inf)])
def test_sensitivities_must_be_finite_and_complete(sensitivity: np.ndarray) -> None:
    """Three finite losses per channel, or nothing."""
    with pytest.raises(ConfigError, match="sensitivity: expected"):
        GlobalPlanner(LAYERS, sensitivity)


def test_sensitivities_survive_their_file() -> None:
    """What was written comes back, bit for bit."""
    data = sensitivity_to_bytes(SENSITIVITY)

    np.testing.assert_array_equal(sensitivity_from_bytes(data), SENSITIVITY)
    with pytest.raises(MalformedArtifactError):
        sensitivity_from_bytes(data[:-1])
