# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_cloud.backbones.sasrec import SASRec
from pocketrec_cloud.export import coded_names
from pocketrec_cloud.planning.myqasr import Granularity, MyQasrPlanner
from pocketrec_quantization.budget import budget_bytes, coded_bytes
from pocketrec_quantization.layers import LayerShape, LayerTable, split_by_layer
from pocketrec_quantization.levels import DEFAULT_LEVELS

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = 8


@pytest.fixture(scope="module")
def model(tiny_training: Trained) -> SASRec:
    """The tiny trained backbone."""
    found = tiny_training.result.model
    assert isinstance(found, SASRec)
    return found


@pytest.fixture(scope="module")
def layers(model: SASRec) -> LayerTable:
    """Its coded matrices."""
    weights = {name: model.get_parameter(f"{name}.weight") for name in coded_names(model)}
    return tuple(LayerShape(name, *weight.shape) for name, weight in weights.items())


@pytest.fixture(scope="module")
def histories(tiny_training: Trained) -> list[NDArray[np.int32]]:
    """What eight users did before their test targets; some of it longer than the window."""
    split = tiny_training.split
    found = [split.history(int(user), "test") for user in split.users[:8]]
    assert max(map(len, found)) > WINDOW
    return [*found[:-1], found[-1][:2]]


@pytest.fixture
def planner(model: SASRec, layers: LayerTable) -> Any:
    """Makes a planner of a granularity."""

    def make(granularity: Granularity = Granularity.CHANNEL) -> MyQasrPlanner:
        return MyQasrPlanner(model=model, layers=layers, granularity=granularity)

    return make


class TestPlans:
    @pytest.mark.parametrize("granularity", Granularity)
    def test_every_user_gets_a_plan_within_the_budget(
        self,
        planner: Any,
        granularity: Granularity,
        layers: LayerTable,
        histories: list[NDArray[np.int32]],
    ) -> None:
        """B histories give B plans of codes 1 to 3 that use the budget but for one upgrade."""
        budget = budget_bytes(layers, 3.0)

        codes = planner(granularity).plan_for(histories, budget)

        used = [coded_bytes(layers, DEFAULT_LEVELS.widths(row)) for row in codes]
        assert codes.shape == (8, sum(layer.n_channels for layer in layers))
        assert codes.dtype == np.uint8
        assert all(budget - 16 < size <= budget for size in used)

    def test_plans_differ_between_users(
        self, planner: Any, layers: LayerTable, histories: list[NDArray[np.int32]]
    ) -> None:
        """Other events, other activations, another plan."""
        codes = planner().plan_for(histories, budget_bytes(layers, 3.0))

        assert len(np.unique(codes, axis=0)) > 1

    def test_a_plan_does_not_depend_on_the_batch(
        self, planner: Any, layers: LayerTable, histories: list[NDArray[np.int32]]
    ) -> None:
        """Alone, or padded beside longer histories: the same plan."""
        budget = budget_bytes(layers, 3.0)

        together = planner().plan_for(histories, budget)

        alone = [planner().plan_for([history], budget)[0] for history in histories]
        np.testing.assert_array_equal(together, alone)

    def test_only_the_window_is_seen(
        self, planner: Any, layers: LayerTable, histories: list[NDArray[np.int32]]
    ) -> None:
        """Events that the re-ranker has forgotten decide nothing."""
        budget = budget_bytes(layers, 3.0)
        long = max(histories, key=len)

        codes = planner().plan_for([long, long[-WINDOW:]], budget)

        np.testing.assert_array_equal(codes[0], codes[1])

    def test_without_a_history_all_channels_count_alike(
        self, planner: Any, histories: list[NDArray[np.int32]]
    ) -> None:
        """A new user has a plan, and leaves those of others alone."""
        nothing = np.zeros(0, np.int32)

        power = planner().output_power([histories[0], nothing, histories[1]])

        assert set(power[1].tolist()) == {1.0}
        np.testing.assert_allclose(power[[0, 2]], planner().output_power(histories[:2]), rtol=1e-5)

    def test_impossible_budgets_are_refused(self, planner: Any, layers: LayerTable) -> None:
        """Below uniform 2 bits there is no plan."""
        with pytest.raises(InfeasibleBudgetError):
            planner().plan_for([np.array([1], np.int32)], budget_bytes(layers, 2.0) - 1)


class TestOutputPower:
    def test_it_is_the_mean_square_of_each_channels_product(
        self, model: SASRec, planner: Any, layers: LayerTable, histories: list[NDArray[np.int32]]
    ) -> None:
        """For the first matrix it can be computed by hand: norm of embeddings times weights."""
        history = histories[0][-WINDOW:]
        with torch.inference_mode():
            embedded = model.item_embedding(torch.from_numpy(history).long()) * model.input_scale
            block = model.get_submodule("blocks.0")
            x = block.get_submodule("attn_norm")(embedded)
            expected = (x @ block.get_parameter("q.weight").T).square().mean(0).numpy()

        power = planner().output_power([histories[0]])[0]

        np.testing.assert_allclose(split_by_layer(power, layers)["blocks.0.q"], expected, rtol=1e-5)

    def test_a_layers_channels_share_their_mean(
        self, planner: Any, layers: LayerTable, histories: list[NDArray[np.int32]]
    ) -> None:
        """With one sensitivity per layer the channels of a layer are alike."""
        by_channel = planner().output_power(histories[:1])[0]

        by_layer = planner(Granularity.LAYER).output_power(histories[:1])[0]

        means = {name: each.mean() for name, each in split_by_layer(by_channel, layers).items()}
        for name, each in split_by_layer(by_layer, layers).items():
            np.testing.assert_allclose(each, means[name])

    def test_the_model_keeps_no_hooks(
        self, model: SASRec, planner: Any, histories: list[NDArray[np.int32]]
    ) -> None:
        """Watching ends with the call."""
        planner().output_power(histories)

        assert not any(module._forward_hooks for module in model.modules())


def test_the_layers_must_be_the_models(model: SASRec, layers: LayerTable) -> None:
    """A table in another order would send sensitivities to the wrong channels."""
    with pytest.raises(ConfigError, match="layers: expected"):
        MyQasrPlanner(model=model, layers=layers[::-1])
