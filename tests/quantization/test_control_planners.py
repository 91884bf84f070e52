# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.budget import allocate, budget_bytes, coded_bytes
from pocketrec_quantization.control_planners import MeanPlanner, ShuffledPlanner
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.planners import UniformPlanner, UserEmbeddings

LAYERS = (LayerShape("a", 4, 16), LayerShape("b", 2, 32))
USERS = np.random.default_rng(0).random((7, 6)).astype(np.float32)
ENOUGH = budget_bytes(LAYERS, 8.0)


class GivenPlans:
    """Looks plans up by the first number of an embedding; the budget does not matter."""

    name = "given"
    levels = DEFAULT_LEVELS

    def __init__(self, *plans: list[int]) -> None:
        self.plans = np.array(plans, np.uint8)

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Return each user's plan."""
        return self.plans[[int(user[0]) for user in user_embeddings if user is not None]]


class DimensionPlanner:
    """A personal planner: what a dimension of the embedding says, its channel gets."""

    name = "dimensions"
    levels = DEFAULT_LEVELS

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Spend the budget on the channels whose dimensions are largest."""
        gains = [np.stack([user, user / 4], axis=1) for user in user_embeddings if user is not None]
        return np.array([allocate(g.astype(np.float64), LAYERS, budget_bytes) for g in gains])


def mean_plan(*plans: list[int], budget: int) -> list[int]:
    """Average given plans."""
    sample = np.arange(len(plans), dtype=np.float32)[:, None]
    planner = MeanPlanner(planner=GivenPlans(*plans), layers=LAYERS, sample=sample)
    return list(planner.plan([None], budget)[0])


class TestMeanPlanner:
    def test_where_all_agree_their_plan_is_the_mean(self) -> None:
        """Bytes that nobody spends stay unspent."""
        plan = [1, 2, 3, 1, 2, 3]

        assert mean_plan(plan, plan, budget=ENOUGH) == plan

    def test_upgrades_that_most_users_share_come_first(self) -> None:
        """With room for one upgrade of the first layer, two of three users decide."""
        one_upgrade = budget_bytes(LAYERS, 2.0) + 4

        plans = [2, 1, 1, 1, 1, 1], [1, 2, 1, 1, 1, 1], [1, 2, 1, 1, 1, 1]

        assert mean_plan(*plans, budget=one_upgrade) == [1, 2, 1, 1, 1, 1]

    def test_a_long_channel_counts_as_much_per_byte_as_a_short_one(self) -> None:
        """An upgrade of 8 bytes that all share goes before two of 4 bytes that some share."""
        budget = budget_bytes(LAYERS, 2.0) + 8

        plans = [2, 1, 1, 1, 2, 1], [1, 2, 1, 1, 2, 1]

        assert mean_plan(*plans, budget=budget) == [1, 1, 1, 1, 2, 1]

    def test_the_budget_is_spent_when_no_majority_agrees(self) -> None:
        """Users who agree on nothing still leave a mean plan of their own size."""
        n_users, budget = len(USERS), budget_bytes(LAYERS, 3.0)
        planner = MeanPlanner(planner=DimensionPlanner(), layers=LAYERS, sample=USERS)

        codes = planner.plan(USERS, budget)

        assert planner.name == "mean-dimensions"
        assert codes.shape == (n_users, 6)
        assert (codes == codes[0]).all()
        used = coded_bytes(LAYERS, DEFAULT_LEVELS.widths(codes[0]))
        assert budget - 4 < used <= budget

    @pytest.mark.parametrize("sample", [USERS[:0], USERS[0], USERS * np.nan, USERS.astype(int)])
    def test_the_sample_must_be_embeddings(self, sample: np.ndarray) -> None:
        """No users, one dimension, NaN and integers are refused."""
        with pytest.raises(ConfigError, match="sample: expected"):
            MeanPlanner(planner=UniformPlanner(LAYERS, 2), layers=LAYERS, sample=sample)


class TestShuffledPlanner:
    BUDGET = budget_bytes(LAYERS, 3.0)

    def planner(self, seed: int = 0, strangers: NDArray[np.float32] = USERS) -> ShuffledPlanner:
        """Shuffle the plans of a personal planner."""
        return ShuffledPlanner(planner=DimensionPlanner(), strangers=strangers, seed=seed)

    @pytest.mark.parametrize("n_users", [2, 3, 7])
    @pytest.mark.parametrize("seed", range(5))
    def test_everybody_gets_the_plan_of_somebody_else(self, n_users: int, seed: int) -> None:
        """Plans are handed round: all of them, and nobody's to themselves."""
        given = GivenPlans(*([user] * 6 for user in range(n_users)))
        users = np.arange(n_users, dtype=np.float32)[:, None]

        codes = ShuffledPlanner(planner=given, strangers=users, seed=seed).plan(users, ENOUGH)

        owners = codes[:, 0].tolist()
        assert sorted(owners) == list(range(n_users))
        assert all(owner != user for user, owner in enumerate(owners))

    def test_seeds_decide_who_exchanges_with_whom(self) -> None:
        """Other seeds shuffle otherwise."""
        plans = [self.planner(seed).plan(USERS, self.BUDGET) for seed in range(4)]

        assert any(not np.array_equal(plans[0], other) for other in plans[1:])

    @pytest.mark.parametrize("seed", range(5))
    def test_a_single_user_gets_a_plan_from_the_pool(self, seed: int) -> None:
        """Even a user who is in the pool does not draw their own plan."""
        pool = np.eye(2, 6, dtype=np.float32)
        own, other = DimensionPlanner().plan(pool, self.BUDGET)

        codes = self.planner(seed, strangers=pool).plan(pool[:1], self.BUDGET)

        assert not np.array_equal(own, other)
        np.testing.assert_array_equal(codes, [other])

    def test_the_name_says_what_was_shuffled(self) -> None:
        """A report of several planners can tell them apart."""
        assert self.planner().name == "shuffled-dimensions"

    def test_a_pool_needs_two_that_differ(self) -> None:
        """Otherwise somebody alone could meet only themselves."""
        with pytest.raises(ConfigError, match="strangers: expected two"):
            self.planner(strangers=np.ones((3, 6), np.float32))
        with pytest.raises(ConfigError, match="strangers: expected finite"):
            self.planner(strangers=USERS[:1])
        with pytest.raises(ConfigError, match="seed"):
            self.planner(seed=-1)
