# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from pocketrec_cloud.backbones.base import Backbone
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.split import LeaveOneOut, leave_one_out
from pocketrec_cloud.export import coded_names
from pocketrec_cloud.planning.configuration import PlannerTraining
from pocketrec_cloud.planning.contest import Contest
from pocketrec_cloud.planning.planned import STRATEGIES, PlannedBackbone
from pocketrec_cloud.planning.planner_training import PlannerResult, own_scorer, train_planner
from pocketrec_cloud.training import EpochRecord

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained, Watcher

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def few(tiny_split: LeaveOneOut) -> LeaveOneOut:
    """Sixty users of the tiny data, and one who has a single event to train on."""
    rows = [tiny_split.dataset.sequence(user).tolist() for user in range(60)]
    return leave_one_out(SequenceDataset.from_sequences([*rows, [3, 4, 5]], n_items=60))


def validation_ndcg10(result: PlannerResult, split: LeaveOneOut) -> float:
    """Evaluate anew what a training returned."""
    config = result.planned.config
    contest = Contest.of(split, "validation", n_users=config.n_validation_users, seed=config.seed)
    return contest.ranks(own_scorer(result.planned, contest)).full.mean("ndcg", 10)


def state(result: PlannerResult) -> dict[str, Tensor]:
    """Return everything that was trained."""
    return dict(result.planned.modules.state_dict())


class TestLearning:
    def test_the_loss_falls(self, trained_planner: PlannerResult) -> None:
        """Four epochs, two of them evaluated, the last one among them."""
        history = trained_planner.history

        assert [record.epoch for record in history] == [1, 2, 3, 4]
        assert history[-1].loss < 0.96 * history[0].loss
        assert [r.validation_ndcg10 is not None for r in history] == [False, True, False, True]

    def test_coded_matrices_stay(
        self, trained_planner: PlannerResult, tiny_training: Trained
    ) -> None:
        """To the bit; item embeddings, norms and biases have all moved."""
        before = tiny_training.result.model
        after = trained_planner.planned.mixed.plain().state_dict()
        coded = {f"{name}.weight" for name in coded_names(before)}

        for name, value in before.state_dict().items():
            assert torch.equal(after[name], value) == (name in coded), name

    def test_extractor_and_networks_learn(
        self, trained_planner: PlannerResult, tiny_training: Trained, planning: PlannerTraining
    ) -> None:
        """Every parameter of theirs."""
        torch.manual_seed(planning.seed)
        start = PlannedBackbone.start(tiny_training.result.model, "personal", planning)

        for name, value in start.modules.named_parameters():
            if not name.startswith("backbone."):
                assert not torch.equal(state(trained_planner)[name], value), name

    def test_plans_differ_between_users(
        self, trained_planner: PlannerResult, tiny_split: LeaveOneOut
    ) -> None:
        """Standardised scores tell them apart."""
        planned = trained_planner.planned
        z = planned.user_embeddings(Contest.of(tiny_split, "test").histories)
        codes = planned.codes(z, 3.0).numpy()

        assert len(np.unique(codes, axis=0)) > 0.5 * len(codes)

    def test_a_user_of_whom_nothing_is_known_is_the_average_one(
        self, trained_planner: PlannerResult, tiny_split: LeaveOneOut
    ) -> None:
        """The population was taken in with the best evaluation."""
        planned = trained_planner.planned
        z = planned.user_embeddings(Contest.of(tiny_split, "validation").histories)

        torch.testing.assert_close(planned.hypernetworks.input_mean, z.mean(0))


class TestBest:
    def test_the_result_is_that_of_the_best_evaluation(
        self, trained_planner: PlannerResult, tiny_split: LeaveOneOut
    ) -> None:
        """Evaluated again it says the same, in evaluation mode."""
        assert not trained_planner.planned.mixed.model.training
        found = validation_ndcg10(trained_planner, tiny_split)

        assert found == pytest.approx(trained_planner.best.validation_ndcg10, abs=1e-9)

    def test_training_stops_early_and_goes_back(
        self, few: LeaveOneOut, tiny_training: Trained, planning: PlannerTraining
    ) -> None:
        """Steps that ruin the model: the first evaluation stays the best one."""
        ruinous = replace(
            planning, max_epochs=9, evaluate_every=1, patience=2, learning_rate=0.3, seed=1
        )

        result = train_planner(few, tiny_training.result.model, ruinous)

        quality = [record.validation_ndcg10 for record in result.history]
        best = result.best.epoch
        assert len(result.history) == best + 2 < 9
        assert result.best.validation_ndcg10 == max(q for q in quality if q is not None)
        assert validation_ndcg10(result, few) == pytest.approx(result.best.validation_ndcg10)

    def test_an_evaluation_at_zero_is_one(self, trained_planner: PlannerResult) -> None:
        """The best is never an epoch that was not evaluated."""
        records = (
            EpochRecord(epoch=1, loss=1.0, seconds=1.0),
            EpochRecord(epoch=2, loss=1.0, seconds=1.0, validation_ndcg10=0.0),
            EpochRecord(epoch=3, loss=1.0, seconds=1.0, validation_ndcg10=0.0),
        )

        assert replace(trained_planner, history=records).best.epoch == 2


class TestStrategies:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_each_trains_and_scores_under_its_plans(
        self,
        few: LeaveOneOut,
        tiny_training: Trained,
        planning: PlannerTraining,
        strategy: str,
        watcher: Watcher,
    ) -> None:
        """Two epochs: every batch and epoch is told, and the backbone given stays."""
        model = tiny_training.result.model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        config = replace(planning, max_epochs=2, n_negatives=20)

        result = train_planner(few, model, config, strategy=strategy, progress=watcher)

        assert result.planned.strategy == strategy
        assert validation_ndcg10(result, few) == pytest.approx(result.best.validation_ndcg10)
        assert [record.epoch for record in watcher.records] == [1, 2]
        assert watcher.shares[-1] == pytest.approx(2)  # who has one event is not waited for
        assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())

    def test_only_personal_planners_have_networks(
        self, tiny_training: Trained, planning: PlannerTraining
    ) -> None:
        """Controls are trained without what they cannot use."""
        model = tiny_training.result.model
        terms = {
            strategy: PlannedBackbone.start(model, strategy, planning).hypernetworks.config.terms
            for strategy in STRATEGIES
        }

        assert {strategy for strategy, found in terms.items() if found} == {"personal"}

    def test_a_caser_is_planned_for(
        self, few: LeaveOneOut, backbone: Backbone, planning: PlannerTraining
    ) -> None:
        """Any backbone, also one that was never trained."""
        result = train_planner(few, backbone, replace(planning, max_epochs=2))

        assert result.history[1].loss < result.history[0].loss


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("strategy", ["personal", "uniform-4"])
def test_a_gpu_trains_as_well(
    few: LeaveOneOut, tiny_training: Trained, planning: PlannerTraining, strategy: str
) -> None:
    """All parts are there, scores too."""
    result = train_planner(
        few, tiny_training.result.model, planning, strategy=strategy, device="cuda"
    )

    assert {tensor.device.type for tensor in state(result).values()} == {"cuda"}
    assert result.history[-1].loss < result.history[0].loss
    assert validation_ndcg10(result, few) == pytest.approx(result.best.validation_ndcg10)
    assert result.planned.planner(bytes(32)).high_share == planning.high_share


class TestSeed:
    def test_it_decides_everything(
        self, few: LeaveOneOut, tiny_training: Trained, planning: PlannerTraining
    ) -> None:
        """The same call gives the same planner bit for bit, another seed another one."""
        config = replace(planning, max_epochs=1, n_negatives=20)
        one, two, other = (
            state(train_planner(few, tiny_training.result.model, replace(config, seed=seed)))
            for seed in (7, 7, 8)
        )

        assert all(torch.equal(one[name], two[name]) for name in one)
        assert not torch.equal(
            one["extractor.gru.weight_ih_l0"], other["extractor.gru.weight_ih_l0"]
        )
