# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.cloud.collaborative.graphs import blocks, matrix

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative.bpr import TripletSampler, bpr_loss, squared_norm

_TRIPLET = np.array([[0], [1], [2]])


class TestLoss:
    def test_equal_scores_cost_log_two(self) -> None:
        """A coin's toss."""
        assert float(bpr_loss(torch.ones(3, 2), _TRIPLET)) == pytest.approx(math.log(2))

    def test_gradient_of_the_user_is_the_difference_weighted(self) -> None:
        """d/du = -sigmoid(-(s+ - s-)) (p - n), divided by the batch."""
        vectors = torch.tensor([[1.0, 2.0], [0.5, 0.0], [0.0, -1.0]], requires_grad=True)

        torch.autograd.backward(bpr_loss(vectors, _TRIPLET))

        share = 1 / (1 + math.exp(0.5 + 2.0))
        assert vectors.grad is not None
        assert vectors.grad[0].numpy() == pytest.approx(-share * np.array([0.5, 1.0]))

    def test_gradient_is_that_of_the_formula(self) -> None:
        """Also where a user, an item or a vector occurs more than once in a batch."""
        nodes = np.random.default_rng(0).integers(0, 6, (3, 40))
        vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        users, positives, negatives = (vectors[torch.from_numpy(each)] for each in nodes)
        gaps = (users * (negatives - positives)).sum(-1)
        expected = torch.nn.functional.softplus(gaps).mean()

        found = bpr_loss(vectors, nodes)

        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
        mine, theirs = (torch.autograd.grad(loss, vectors)[0] for loss in (found, expected))
        assert torch.allclose(mine, theirs, atol=1e-6)

    def test_large_differences_stay_finite(self) -> None:
        """The loss of a badly wrong order is its difference."""
        vectors = torch.tensor([[100.0], [-10.0], [10.0]])

        assert float(bpr_loss(vectors, _TRIPLET)) == pytest.approx(2000.0)


class TestNorm:
    def test_who_occurs_twice_counts_twice(self) -> None:
        """It is the norm of a batch's vectors, over its triplets."""
        vectors = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
        nodes = np.array([[0, 0], [1, 1], [2, 1]])

        assert float(squared_norm(vectors, nodes)) == pytest.approx((10 + 27 + 16) / 2)


class TestSampler:
    def test_every_interaction_comes_once(self) -> None:
        """An epoch is a permutation of train, in batches."""
        train = blocks(30, 20).train
        batches = list(TripletSampler(train).epoch(np.random.default_rng(0), 7))

        found = sorted(
            (u, i) for users, items, _ in batches for u, i in zip(users, items, strict=True)
        )

        assert found == sorted(zip(*train.nonzero(), strict=True))
        assert {batch[0].size for batch in batches[:-1]} == {7}

    def test_negatives_are_never_positives(self) -> None:
        """Even where a user met all items but one."""
        pairs = [(0, item) for item in range(9)] + [(1, 9), (2, 0)]
        sampler = TripletSampler(matrix(pairs, (4, 10)))

        for seed in range(20):
            for users, _, negatives in sampler.epoch(np.random.default_rng(seed), 5):
                assert set(negatives[users == 0]) <= {9}
                assert 9 not in negatives[users == 1]
                assert 0 not in negatives[users == 2]

    def test_negatives_reach_every_other_item(self) -> None:
        """They are uniform over what was not met."""
        sampler = TripletSampler(matrix([(0, 1)], (1, 4)))
        drawn = [
            int(negatives[0])
            for seed in range(100)
            for _, _, negatives in sampler.epoch(np.random.default_rng(seed), 1)
        ]

        assert set(drawn) == {0, 2, 3}

    def test_a_user_who_met_everything_is_refused(self) -> None:
        """There is nothing to draw."""
        with pytest.raises(ConfigError, match="did not meet"):
            TripletSampler(matrix([(0, 0), (0, 1)], (1, 2)))
