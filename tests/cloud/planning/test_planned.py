# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketrec_cloud.backbones.base import Backbone
from pocketrec_cloud.batches import pad
from pocketrec_cloud.bundling import freeze_backbone
from pocketrec_cloud.export import device_form
from pocketrec_cloud.planning.configuration import PlannerTraining
from pocketrec_cloud.planning.cuts import CutBatch
from pocketrec_cloud.planning.planned import STRATEGIES, PlannedBackbone
from pocketrec_quantization.budget import budget_bytes, coded_bytes
from pocketrec_quantization.levels import DEFAULT_LEVELS, SPEED_PRESETS, LevelTable
from pocketrec_quantization.references import reference_of

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = (1, 3, 8, 9, 14, 20)
BATTERY_SAVER = SPEED_PRESETS["battery_saver"]


@pytest.fixture
def planned(backbone: Backbone, planning: PlannerTraining) -> PlannedBackbone:
    """An untrained personal planner; what is random is the same in every test."""
    return start(backbone, "personal", planning)


@pytest.fixture
def histories() -> list[NDArray[np.int32]]:
    """Some shorter than every window, some longer."""
    rng = np.random.default_rng(2)
    return [rng.integers(1, 61, length).astype(np.int32) for length in LENGTHS]


def start(backbone: Backbone, strategy: str, config: PlannerTraining) -> PlannedBackbone:
    """Start without a training, in evaluation mode."""
    torch.manual_seed(0)
    found = PlannedBackbone.start(backbone, strategy, config)
    found.modules.eval()
    return found


def batch_of(past: NDArray[np.int32], future: NDArray[np.int32], window: int) -> CutBatch:
    """Return a batch of one user, whose last past event predicts the first of the future."""
    events = np.concatenate([past, future])[-window - 1 :]
    targets = events[1:].copy()
    targets[: -len(future)] = 0
    return CutBatch(
        past=pad([past]),
        past_lengths=torch.tensor([len(past)]),
        inputs=pad([events[:-1]]),
        targets=pad([targets]),
    )


def mix(planned: PlannedBackbone) -> Tensor:
    """Return how much of each width every channel has, as the last batch left it."""
    found = [layer.mix for layer in planned.mixed.linears.values() if layer.mix is not None]
    return torch.cat(found, dim=1).detach()


class TestScorer:
    @pytest.mark.parametrize("levels", [DEFAULT_LEVELS, BATTERY_SAVER], ids=lambda t: str(t.bits))
    def test_scores_are_those_of_a_device(
        self,
        planned: PlannedBackbone,
        backbone: Backbone,
        histories: list[NDArray[np.int32]],
        levels: LevelTable,
    ) -> None:
        """The reference executor, over the frozen part of a bundle, gives the same numbers."""
        codes = planned.codes(planned.user_embeddings(histories), 3.0)
        rows = np.array([5, 0, 3, 1])

        scores = planned.scorer(histories, codes, levels)(rows).numpy()

        frozen, table = freeze_backbone(backbone), device_form(backbone).item_embedding.weight
        items, config = table.detach().numpy(), backbone.config.architecture()
        for row, found in zip(rows, scores, strict=True):
            widths = levels.widths(codes[row].numpy().astype(np.uint8))
            reference = reference_of(frozen, widths, config)
            h = reference.state_after(items[histories[row][-config.window :]])
            np.testing.assert_allclose(found[1:], reference.score(h, items[1:]), atol=2e-5)

    def test_one_plan_is_for_everybody(
        self, planned: PlannedBackbone, histories: list[NDArray[np.int32]]
    ) -> None:
        """A single row of codes stands for as many as there are users."""
        codes = planned.codes(planned.user_embeddings(histories[:1]), 3.0)
        rows = np.arange(len(histories))

        one = planned.scorer(histories, codes)(rows)
        many = planned.scorer(histories, codes.expand(len(histories), -1))(rows)

        assert torch.equal(one, many)

    def test_without_codes_weights_are_float(
        self, planned: PlannedBackbone, backbone: Backbone, histories: list[NDArray[np.int32]]
    ) -> None:
        """Those of the backbone that was given."""
        recent = [history[-8:] for history in histories]
        lengths = torch.tensor([len(row) for row in recent])
        with torch.inference_mode():
            states = backbone.last_states(pad(recent), lengths)
            expected = states @ backbone.item_embedding.weight.T

        found = planned.scorer(histories, None)(np.arange(len(histories)))

        torch.testing.assert_close(found, expected)


class TestPlans:
    def test_they_are_those_of_the_server(
        self, planned: PlannedBackbone, histories: list[NDArray[np.int32]]
    ) -> None:
        """Code for code, without torch, for any budget; the share of tier 3 goes along."""
        z = planned.user_embeddings(histories)
        planner = planned.planner(bytes(32))

        assert planner.high_share == planned.config.high_share == 0.25
        for bits in (2.25, 3.0, 6.0):
            budget = budget_bytes(planned.mixed.layers, bits)
            ours, theirs = planned.codes(z, bits), planner.plan(z.numpy(), budget)
            assert (ours.numpy() != theirs).mean() < 0.02  # scores may round apart at a border
            for codes in theirs:
                assert coded_bytes(planned.mixed.layers, DEFAULT_LEVELS.widths(codes)) <= budget

    def test_users_are_extracted_alone(
        self, planned: PlannedBackbone, histories: list[NDArray[np.int32]]
    ) -> None:
        """Whatever the company; and only the window counts."""
        together = planned.user_embeddings(histories)
        for row, history in enumerate(histories):
            alone = planned.user_embeddings([history[-planned.config.extract_window :]])
            torch.testing.assert_close(alone[0], together[row])

    def test_they_are_extracted_as_on_devices(
        self,
        planned: PlannedBackbone,
        backbone: Backbone,
        histories: list[NDArray[np.int32]],
    ) -> None:
        """From the item rows of a bundle, by the extractor without torch."""
        items = device_form(backbone).item_embedding.weight.detach().numpy()
        reference = planned.extractor.reference()
        window = planned.config.extract_window
        expected = [reference.embed(items[history[-window:]]) for history in histories]

        found = planned.user_embeddings(histories)

        np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)


class TestPredict:
    def predict(self, planned: PlannedBackbone, batch: CutBatch, bits: float = 3.0) -> Tensor:
        """Predict at a low temperature."""
        return planned.predict(
            batch, spending=planned.spending(bits), levels=DEFAULT_LEVELS, temperature=0.2
        )

    def test_a_plan_uses_only_what_came_before(self, planned: PlannedBackbone) -> None:
        """Other events after the cut: the same widths, other states; before it: other widths."""
        past, future = np.arange(1, 6, dtype=np.int32), np.arange(11, 14, dtype=np.int32)
        states, mixes = [], []
        for before, after in ((past, future), (past, future + 20), (past + 40, future)):
            batch = batch_of(before, after, 8)
            states.append(self.predict(planned, batch).detach())
            mixes.append(mix(planned))

        assert torch.equal(mixes[0], mixes[1])
        assert not torch.equal(states[0][:, -1], states[1][:, -1])
        assert not torch.equal(mixes[0], mixes[2])

    def test_targets_are_never_looked_at(self, planned: PlannedBackbone) -> None:
        """Not even those that no input repeats."""
        batch = batch_of(np.arange(1, 6, dtype=np.int32), np.arange(11, 14, dtype=np.int32), 8)
        other = replace(batch, targets=torch.where(batch.targets > 0, 60, 0))

        assert torch.equal(self.predict(planned, batch), self.predict(planned, other))

    @pytest.mark.parametrize("strategy", ["uniform-2", "uniform-4", "uniform-8"])
    def test_uniform_is_one_width_everywhere(
        self, backbone: Backbone, planning: PlannerTraining, strategy: str
    ) -> None:
        """And that is what is scored, too."""
        planned = start(backbone, strategy, planning)
        past, future = np.arange(1, 6, dtype=np.int32), np.arange(11, 13, dtype=np.int32)
        batch = batch_of(past, future, 8)
        place = {"2": 0, "4": 1, "8": 2}[strategy[-1]]

        states = self.predict(planned, batch)

        assert (mix(planned)[..., place] == 1).all()
        assert (mix(planned).sum(-1) == 1).all()
        codes = torch.full((1, mix(planned).shape[1]), place + 1)
        scores = planned.scorer([np.concatenate([past, future[:1]])], codes)(np.array([0]))
        table = backbone.item_embedding.weight
        torch.testing.assert_close(scores[0], (states[0, -1] @ table.T).detach())

    def test_global_is_the_same_for_everybody(
        self, backbone: Backbone, planning: PlannerTraining
    ) -> None:
        """Whatever the past; it learns one number per channel."""
        planned = start(backbone, "global", planning)
        with torch.no_grad():
            planned.hypernetworks.shift.copy_(torch.randn_like(planned.hypernetworks.shift))
        future, mixes = np.arange(11, 14, dtype=np.int32), []
        for past in (np.array([1, 2], np.int32), np.array([50, 40, 30], np.int32)):
            states = self.predict(planned, batch_of(past, future, 8))
            mixes.append(mix(planned))
        torch.autograd.backward(states[..., 0].sum())

        assert torch.equal(*mixes)
        assert set(mixes[0].argmax(-1).flatten().tolist()) == {0, 1, 2}
        shift = planned.hypernetworks.shift.grad
        assert shift is not None
        assert (shift != 0).any()

    def test_float_needs_no_plan(self, backbone: Backbone, planning: PlannerTraining) -> None:
        """The states are the backbone's own, and no planner gets a gradient."""
        planned = start(backbone, "float", planning)
        batch = batch_of(np.arange(1, 6, dtype=np.int32), np.arange(11, 14, dtype=np.int32), 8)

        states = self.predict(planned, batch)
        torch.autograd.backward(states[..., 0].sum())

        torch.testing.assert_close(states, backbone(batch.inputs))
        assert all(p.grad is None for p in planned.hypernetworks.parameters())
        assert all(p.grad is None for p in planned.extractor.parameters())

    def test_personal_plans_teach_the_extractor(self, planned: PlannedBackbone) -> None:
        """Gradients reach it through the plan."""
        batch = batch_of(np.arange(1, 6, dtype=np.int32), np.arange(11, 14, dtype=np.int32), 8)
        torch.autograd.backward(self.predict(planned, batch).square().sum())

        for parameter in planned.extractor.parameters():
            assert parameter.grad is not None
            assert (parameter.grad != 0).any()


def test_strategies_start_with_the_same_backbone(
    backbone: Backbone, planning: PlannerTraining
) -> None:
    """Whoever compares them compares plans."""
    for strategy in STRATEGIES:
        plain = start(backbone, strategy, planning).mixed.plain().state_dict()
        assert all(torch.equal(plain[k], v) for k, v in backbone.state_dict().items())


class TestPruning:
    def test_the_first_table_is_that_of_the_plans(self, planning: PlannerTraining) -> None:
        """Budgets are spent by it, and what a server evaluates says so."""
        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
        from pocketrec_cloud.planning.planned import PlannedBackbone
        from pocketrec_quantization.budget import budget_bytes, coded_bytes
        from pocketrec_quantization.levels import PRUNING_LEVELS

        model = SASRec(SASRecConfig(n_items=9, embedding_dim=16, window=8)).eval()
        config = replace(planning, level_tables=(PRUNING_LEVELS,))

        planner = PlannedBackbone.start(model, "personal", config).planner(bytes(32))

        assert planner.levels == PRUNING_LEVELS
        budget = budget_bytes(planner.layers, 3.0)
        z = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
        for codes in planner.plan(z, budget):
            widths = PRUNING_LEVELS.widths(codes)
            assert {0, 4, 8} == set(widths.tolist())
            largest = 16 * 8 // 8 + 4
            assert budget - largest < coded_bytes(planner.layers, widths) <= budget
