# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.quantization.hypernetwork_samples import CONFIG, DIGEST, LAYERS, random_users

from pocketrec_quantization.allocation import Spending, allocate_scores
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.layers import LayerShape, total_channels

torch = pytest.importorskip("torch", reason="needs the extra 'cloud'")

if TYPE_CHECKING:
    import torch

from pocketrec_quantization.hypernetworks import (  # noqa: E402  needs torch
    Hypernetworks,
    allocate,
    tiers,
)

BUDGET = budget_bytes(LAYERS, 3.0)
SPENDING = Spending.of(LAYERS, BUDGET)
USERS = random_users(50)
N_CHANNELS = total_channels(LAYERS)


def make_networks(
    terms: tuple[str, ...] = CONFIG.terms, *, is_standardised: bool = False
) -> Hypernetworks:
    """Return networks with random weights."""
    torch.manual_seed(0)
    return Hypernetworks(LAYERS, replace(CONFIG, terms=terms), is_standardised=is_standardised)


class TestAllocation:
    """Hard plans in torch."""

    @given(
        arrays(
            np.float32,
            (2, N_CHANNELS),
            elements=st.sampled_from([-2.0, -0.0, 0.0, 1e-40, 1.0]) | st.floats(-3, 3, width=32),
        ),
        st.integers(BUDGET // 2, 2 * BUDGET),
        st.sampled_from([0.0, 0.5, 1.0]),
    )
    def test_codes_are_those_of_numpy(self, scores: np.ndarray, budget: int, share: float) -> None:
        """Code for code, ties included."""
        least = budget_bytes(LAYERS, 2.0)
        budget = max(budget, least)
        spending = Spending.of(LAYERS, budget, high_share=share)

        codes = allocate(torch.from_numpy(scores), spending)

        expected = allocate_scores(scores, LAYERS, budget, high_share=share)
        assert codes.tolist() == expected.tolist()

    def test_tiers_are_one_hot_codes(self) -> None:
        """Forward, a channel has one tier and no part of another."""
        scores = torch.from_numpy(random_users(4, dim=N_CHANNELS))

        found = tiers(scores, SPENDING, 0.5)

        torch.testing.assert_close(
            found, torch.nn.functional.one_hot(allocate(scores, SPENDING) - 1, 3).float()
        )


class TestGradients:
    """Soft tiers backward."""

    @pytest.mark.parametrize("is_standardised", [False, True])
    def test_every_parameter_learns(self, *, is_standardised: bool) -> None:
        """Heads of every layer among them: none is hidden in a plain list."""
        networks = make_networks(is_standardised=is_standardised).train()
        users = torch.from_numpy(USERS)
        worth = torch.randn(N_CHANNELS, 3, generator=torch.Generator().manual_seed(1))

        loss = (tiers(networks(users), SPENDING, 1.0) * worth).sum()
        torch.autograd.backward(loss)

        silent = [
            name
            for name, parameter in networks.named_parameters()
            if parameter.grad is None or not parameter.grad.any()
        ]
        n_heads = 2 * len(LAYERS) + 1 + 1  # per layer, of layers, and the hidden one
        assert silent == []
        assert len(list(networks.parameters())) == 2 * n_heads + 1  # and the shift

    def test_a_higher_score_means_more_of_the_highest_tier(self) -> None:
        """And less of the lowest."""
        scores = torch.from_numpy(random_users(3, dim=N_CHANNELS)).requires_grad_()

        found = tiers(scores, SPENDING, 1.0)
        to_high = torch.autograd.grad(found[..., 2].sum(), scores, retain_graph=True)[0]
        to_low = torch.autograd.grad(found[..., 0].sum(), scores)[0]

        assert (to_high > 0).all()
        assert (to_low < 0).all()

    def test_channels_near_a_border_learn_most(self) -> None:
        """Those whose tier no small change could change hardly learn."""
        layers = (LayerShape("a", 6, 64),)
        spending = Spending.of(layers, 6 * 20 + 96)  # tiers 3 2 2 2 1 1
        scores = torch.tensor([[9.0, 4.0, 3.0, 1.1, 0.9, -9.0]], requires_grad=True)

        torch.autograd.backward(tiers(scores, spending, 0.2)[..., 0].sum())

        assert scores.grad is not None
        size = scores.grad[0].abs()
        assert size[[3, 4]].min() > 1.0
        assert size[[0, 1, 2, 5]].max() < 1e-3

    def test_a_low_temperature_sharpens(self) -> None:
        """Far from a border nothing is left of the gradient."""
        scores = torch.from_numpy(random_users(1, dim=N_CHANNELS)).requires_grad_()
        sizes = []
        for temperature in (1.0, 0.01):
            found = tiers(scores, SPENDING, temperature)[..., 2].sum()
            gradient = torch.autograd.grad(found, scores)[0]
            sizes.append(int((gradient.abs() > 1e-6).sum()))

        assert sizes[0] == N_CHANNELS > sizes[1]


class TestPlanner:
    """What is left when training is over."""

    @pytest.mark.parametrize(
        "terms", [(), ("filter",), ("element",), ("layer",), ("filter", "element", "layer")]
    )
    @pytest.mark.parametrize("is_standardised", [False, True])
    def test_scores_are_those_of_torch(
        self, terms: tuple[str, ...], *, is_standardised: bool
    ) -> None:
        """Within rounding, standardised or not."""
        networks = make_networks(terms, is_standardised=is_standardised)
        with torch.no_grad():
            networks.shift.normal_(generator=torch.Generator().manual_seed(2))
        networks.fit_population(torch.from_numpy(USERS))
        networks.eval()

        planner = networks.planner(DIGEST, name="mine")

        with torch.no_grad():
            expected = networks(torch.from_numpy(USERS)).numpy()
        assert planner.name == "mine"
        np.testing.assert_allclose(planner.scores(USERS), expected, rtol=1e-5, atol=1e-5)

    def test_the_average_user_is_the_unknown_one(self) -> None:
        """After the population is known."""
        networks = make_networks()
        networks.fit_population(torch.from_numpy(USERS))

        planner = networks.planner(DIGEST)

        np.testing.assert_allclose(
            planner.scores([None]), planner.scores(USERS.mean(0, keepdims=True)), atol=1e-5
        )

    def test_centring_changes_no_score(self) -> None:
        """It moves into the biases."""
        networks = make_networks().eval()
        users = torch.from_numpy(USERS) + 3

        before = networks(users)
        networks.fit_population(users)

        torch.testing.assert_close(networks(users), before, rtol=1e-4, atol=1e-4)

    def test_standardised_scores_tell_what_sets_a_user_apart(self) -> None:
        """Over the population every channel has the mean of its shift, and a spread of 1."""
        networks = make_networks(is_standardised=True)
        networks.fit_population(torch.from_numpy(USERS))

        scores = networks.planner(DIGEST).scores(USERS)

        np.testing.assert_allclose(scores.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(scores.std(0), 1, atol=0.05)

    def test_training_follows_the_population(self) -> None:
        """Statistics of scores move towards those of each batch."""
        networks = make_networks(is_standardised=True).train()
        before = networks.score_mean.clone()

        scores = networks(torch.from_numpy(USERS))

        torch.testing.assert_close(scores.mean(0), networks.shift, atol=1e-4, rtol=0)
        assert (networks.score_mean != before).all()
