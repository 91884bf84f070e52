# SPDX-License-Identifier: Apache-2.0
"""What is taken among layouts that fit a budget."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pocketrec_cloud.compression.allocation import rows
from pocketrec_cloud.compression.choice import Candidate, best_of, divergences

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained

pytestmark = pytest.mark.usefixtures("one_thread")

HISTORIES = [np.array([1, 2, 3], np.int32), np.array([4], np.int32)]


def candidate(name: str, ndcg10: float, divergence: float) -> Candidate:
    """What was found of a layout."""
    return Candidate(name=name, bits=8, layout=rows(4, 16, 8), ndcg10=ndcg10, divergence=divergence)


class TestBestOf:
    def test_what_diverges_least_is_taken(self) -> None:
        """Though another one was luckier with the targets of the validation users."""
        found = [candidate("product", 0.30, 0.02), candidate("shared", 0.31, 0.03)]

        assert best_of(found).name == "product"

    def test_targets_decide_between_those_that_diverge_alike(self) -> None:
        """Within 5 % of the least, whatever the order."""
        found = [candidate("product", 0.30, 0.0200), candidate("residual", 0.31, 0.0209)]

        assert best_of(found).name == best_of(found[::-1]).name == "residual"


class TestDivergences:
    def test_a_twin_does_not_diverge(self, tiny_training: Trained) -> None:
        """And what differs more diverges more."""
        model = tiny_training.result.model
        others = [copy.deepcopy(model) for _ in range(3)]
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=(61, 16)).astype(np.float32))
        with torch.no_grad():
            for strength, other in enumerate(others):
                other.item_embedding.weight.add_(0.1 * strength * noise)

        twin, near, far = divergences(model, others, HISTORIES)

        assert twin == pytest.approx(0, abs=1e-6)
        assert 1e-4 < near < far

    def test_what_was_seen_does_not_count(self, tiny_training: Trained) -> None:
        """Only unseen items are ever ranked: a change of the seen ones alone is none."""
        model = tiny_training.result.model
        changed = copy.deepcopy(model)
        states = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            changed.item_embedding.weight[59] += 5
        history = [np.concatenate([[59], np.full(60, 7)]).astype(np.int32)]

        # Item 59 was seen so long ago that the model's window no longer reaches it.
        (found,) = divergences(model, [changed], history)

        assert model.config.window < 60
        assert found == pytest.approx(0, abs=1e-6)
        assert all(torch.equal(states[name], own) for name, own in model.state_dict().items())
