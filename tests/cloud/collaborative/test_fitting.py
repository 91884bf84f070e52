# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.cloud.collaborative.graphs import blocks

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative import (
    CodebookTable,
    FitConfig,
    GraphModel,
    RowAssignment,
    fit,
    rank_test,
    rank_validation,
)
from pocketrec_cloud.collaborative.fitting import Fitted

SPLIT = blocks(60, 48)
CONFIG = FitConfig(learning_rate=0.05, batch_size=200, max_epochs=20, evaluate_every=2)


def model(*, n_layers: int = 2) -> GraphModel:
    """Make a model in which users of a block share a row."""
    users, items = (
        CodebookTable(assignment, init_std=0.1, seed=seed)
        for seed, assignment in enumerate(
            (
                RowAssignment.shared(np.arange(SPLIT.n_users) % 8, width=8),
                RowAssignment.full(SPLIT.n_items, 8),
            )
        )
    )
    return GraphModel(users, items, SPLIT.train, n_layers=n_layers)


def trained(config: FitConfig = CONFIG, *, n_layers: int = 2) -> tuple[GraphModel, Fitted]:
    """Train a new model."""
    made = model(n_layers=n_layers)
    return made, fit(made, SPLIT, config)


class TestFit:
    @pytest.mark.parametrize("n_layers", [0, 2])
    def test_training_finds_the_blocks(self, n_layers: int) -> None:
        """Recall of a list of 10 of 48 items rises well above that of drawn vectors."""
        before = rank_test(model(n_layers=n_layers), SPLIT).recall(10).mean()

        found, _ = trained(n_layers=n_layers)

        assert rank_test(found, SPLIT).recall(10).mean() > before + 0.2

    def test_a_seed_fixes_the_course(self) -> None:
        """Two trainings end in the same bits, one of another seed does not."""
        first, again, other = (
            trained(config)[0]()[0] for config in (CONFIG, CONFIG, replace(CONFIG, seed=1))
        )

        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_best_state_is_kept(self) -> None:
        """The model is the one whose recall was reported, and that recall is the largest."""
        seen: dict[int, float] = {}

        def watch(*, epoch: int, loss: float, recall: float | None) -> None:
            assert np.isfinite(loss)
            if recall is not None:
                seen[epoch] = recall

        found = model()
        fitted = fit(found, SPLIT, CONFIG, progress=watch)

        assert fitted.validation_recall == max(seen.values()) == seen[fitted.epoch]
        now = rank_validation(found, SPLIT).recall(20).mean()
        assert now == pytest.approx(fitted.validation_recall)

    def test_it_stops_when_patience_is_out(self) -> None:
        """At a rate so small that nothing changes, the first evaluation stays the best."""
        config = replace(CONFIG, learning_rate=1e-12, patience=3, max_epochs=100)

        _, fitted = trained(config)

        assert (fitted.epoch, fitted.n_epochs) == (2, 8)

    def test_decay_keeps_vectors_short(self) -> None:
        """A large weight of the norm shrinks the table."""
        config = replace(CONFIG, patience=100)

        free, _ = trained(config)
        held, _ = trained(replace(config, decay=1.0))

        assert held()[1].square().sum() < free()[1].square().sum() / 2

    def test_a_loss_that_is_no_number_is_named(self) -> None:
        """Training refuses to go on."""
        found = model()
        with torch.no_grad():
            found.users.codebooks[0][0, 0] = torch.nan

        with pytest.raises(ConfigError, match="finite loss, found nan in epoch 1"):
            fit(found, SPLIT, CONFIG)


class TestConfig:
    @pytest.mark.parametrize(
        "wrong", [{"batch_size": 0}, {"learning_rate": 0.0}, {"decay": -1.0}, {"patience": 0}]
    )
    def test_impossible_settings_are_refused(self, wrong: dict[str, float]) -> None:
        """Nothing can be trained so."""
        with pytest.raises(ConfigError, match="positive settings"):
            FitConfig(**wrong)
