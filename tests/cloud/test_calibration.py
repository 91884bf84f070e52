# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_cloud import calibration
from pocketrec_cloud.backbones.caser import Caser, CaserConfig
from pocketrec_cloud.backbones.sasrec import SASRec
from pocketrec_cloud.batches import pad
from pocketrec_cloud.calibration import collect_statistics, measure_sensitivity
from pocketrec_cloud.export import coded_names, device_form, with_weights
from pocketrec_cloud.losses import softmax_loss
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.quantizer import freeze_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.cloud.conftest import Trained

    from pocketrec_cloud.calibration import ActivationStatistics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tiny_training: Trained) -> SASRec:
    """The tiny trained backbone as devices compute it."""
    model = device_form(tiny_training.result.model)
    assert isinstance(model, SASRec)
    return model


@pytest.fixture(scope="module")
def sequences(tiny_training: Trained) -> list[NDArray[np.int32]]:
    """Its training events, short enough to be taken whole."""
    split = tiny_training.split
    return [split.train_sequence(u)[-9:] for u in range(split.dataset.n_users)]


@pytest.fixture(scope="module")
def weights(model: SASRec) -> dict[str, NDArray[np.float32]]:
    """Its coded matrices."""
    names = [f"{name}.weight" for name in coded_names(model)]
    return {name: model.get_parameter(name).detach().numpy().copy() for name in names}


@pytest.fixture(scope="module")
def frozen(weights: dict[str, NDArray[np.float32]]) -> FrozenModel:
    """The same, quantized; dense tensors play no part here."""
    matrices = {n.removesuffix(".weight"): freeze_matrix(array) for n, array in weights.items()}
    return FrozenModel(matrices=matrices, dense={"final_norm.weight": np.ones(16, np.float32)})


@pytest.fixture(scope="module")
def sensitivity(
    model: SASRec,
    sequences: list[NDArray[np.int32]],
    weights: dict[str, NDArray[np.float32]],
    frozen: FrozenModel,
) -> NDArray[np.float64]:
    """Expected loss per channel and width."""
    return measure_sensitivity(weights, frozen, collect_statistics(model, sequences))


def mean_loss(model: SASRec, sequences: list[NDArray[np.int32]]) -> float:
    """Return the mean loss over all events."""
    inputs, targets = pad([s[:-1] for s in sequences]), pad([s[1:] for s in sequences])
    real = targets > 0
    with torch.inference_mode():
        hidden = model(inputs)[real].double()
        table = model.item_embedding.weight.double()
        return softmax_loss(hidden, targets[real], table).item()


def assert_equal(
    one: Mapping[str, ActivationStatistics], other: Mapping[str, ActivationStatistics]
) -> None:
    """Compare all statistics of two passes."""
    assert one.keys() == other.keys()
    for name, statistics in one.items():
        for field in ("input_moments", "gradient_power"):
            found, expected = getattr(other[name], field), getattr(statistics, field)
            # Sums in which large terms cancel keep the rounding of those terms.
            rounding = 1e-6 * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=rounding)


class TestCollectStatistics:
    def test_every_coded_matrix_is_covered(
        self, model: SASRec, sequences: list[NDArray[np.int32]]
    ) -> None:
        """Moments of the inputs and powers of the outputs have the matrix's sides."""
        statistics = collect_statistics(model, sequences)

        assert list(statistics) == coded_names(model)
        for name, found in statistics.items():
            n_channels, n_elements = model.get_parameter(f"{name}.weight").shape
            assert found.input_moments.shape == (n_elements, n_elements)
            assert found.gradient_power.shape == (n_channels,)
            assert (found.gradient_power >= 0).all()

    def test_moments_are_those_of_the_inputs(self, model: SASRec) -> None:
        """For one history: the mean of x x^T over its events, computed by hand."""
        items = np.array([3, 1, 4, 1, 5], np.int32)

        statistics = collect_statistics(model, [items])

        with torch.inference_mode():
            x = model.item_embedding(torch.from_numpy(items[:-1].astype(np.int64)))
            a = model.get_submodule("blocks.0.attn_norm")(x).double().numpy()
        np.testing.assert_allclose(
            statistics["blocks.0.q"].input_moments, a.T @ a / 4, rtol=1e-5, atol=1e-7
        )

    def test_powers_are_those_of_the_gradients(self, model: SASRec) -> None:
        """For one history: squared gradients of the summed loss, as differences show them.

        Shifting the bias of a channel at every event moves the loss by the sum of the
        gradients; with a single event that is the one gradient.
        """
        items, channel, shift = np.array([7, 8], np.int32), 5, 1e-2
        inputs, target = torch.tensor([[7]]), torch.tensor([8])

        def loss(offset: float) -> float:
            moved = with_weights(model, {}).double()
            with torch.inference_mode():
                moved.get_parameter("blocks.1.ffn2.bias")[channel] += offset
                table = moved.item_embedding.weight
                return softmax_loss(moved(inputs)[0], target, table).item()

        gradient = (loss(shift) - loss(-shift)) / (2 * shift)
        power = collect_statistics(model, [items])["blocks.1.ffn2"].gradient_power[channel]

        assert power == pytest.approx(gradient**2, rel=1e-2)

    def test_filters_count_every_place(self) -> None:
        """Of one event in a window of two: moments are means over places, powers sums.

        The rows a filter of height 1 sees are zeros and the event, so the moments are half
        of x x^T. Only the stronger place has a gradient, and it is that of the bias.
        """
        torch.manual_seed(0)
        shape = CaserConfig(n_items=9, embedding_dim=3, window=2, max_height=1, n_horizontal=2)
        model = device_form(Caser(shape).eval())
        items, channel, shift = np.array([7, 8], np.int32), 1, 1e-3

        def loss(offset: float) -> float:
            moved = with_weights(model, {}).double()
            with torch.inference_mode():
                moved.get_parameter("horizontal.1.bias")[channel] += offset
                hidden = moved(torch.tensor([[7]]))[0]
                return softmax_loss(hidden, torch.tensor([8]), moved.item_embedding.weight).item()

        gradient = (loss(shift) - loss(0)) / shift
        found = collect_statistics(model, [items])["horizontal.1"]

        x = model.item_embedding.weight[7].detach().double().numpy()
        np.testing.assert_allclose(found.input_moments, np.outer(x, x) / 2, rtol=1e-5)
        assert found.gradient_power[channel] == pytest.approx(gradient**2, rel=1e-2)
        assert found.gradient_power[channel] > 0

    def test_padding_is_ignored(
        self,
        model: SASRec,
        sequences: list[NDArray[np.int32]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Histories padded to one length count as they do one by one."""
        mixed = [sequence[: 2 + i % 8] for i, sequence in enumerate(sequences[:40])]
        together = collect_statistics(model, mixed)
        monkeypatch.setattr(calibration, "TOKENS_PER_BATCH", 1)

        assert_equal(together, collect_statistics(model, mixed))

    def test_logits_held_at_once_are_bounded(
        self,
        model: SASRec,
        sequences: list[NDArray[np.int32]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Predicting in pieces changes nothing."""
        at_once = collect_statistics(model, sequences)
        monkeypatch.setattr(calibration, "LOGIT_CELLS", 7 * 60)

        assert_equal(at_once, collect_statistics(model, sequences))

    def test_the_model_is_left_as_it_was(
        self, model: SASRec, sequences: list[NDArray[np.int32]]
    ) -> None:
        """No weight moves, no gradient and no hook stays behind."""
        before = {name: value.clone() for name, value in model.state_dict().items()}

        collect_statistics(model, sequences, n_users=5)

        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert_no_hooks(model)

    def test_a_failure_leaves_no_hooks(self, model: SASRec) -> None:
        """Items that the catalogue lacks break the pass, not the model."""
        with pytest.raises(IndexError):
            collect_statistics(model, [np.array([1, 999, 2], np.int32)])

        assert_no_hooks(model)

    def test_somebody_must_have_two_events(self, model: SASRec) -> None:
        """Without a next event there is no loss to measure."""
        with pytest.raises(ConfigError, match="at least 2 events"):
            collect_statistics(model, [np.array([1], np.int32)])


def assert_no_hooks(model: SASRec) -> None:
    """Look for hooks in every layer."""
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


class TestMeasureSensitivity:
    def test_fewer_bits_cost_more(self, sensitivity: NDArray[np.float64]) -> None:
        """Over all channels the loss falls from 2 to 4 to 8 bits, by much."""
        two, four, eight = sensitivity.sum(axis=0)

        assert two > 5 * four > 25 * eight > 0

    def test_the_formula_by_hand(
        self, weights: dict[str, NDArray[np.float32]], frozen: FrozenModel
    ) -> None:
        """With white inputs and unit gradients it is half the squared weight error."""
        statistics = {
            layer.name: calibration.ActivationStatistics(
                input_moments=np.eye(layer.n_elements), gradient_power=np.ones(layer.n_channels)
            )
            for layer in frozen.layers
        }

        sensitivity = measure_sensitivity(weights, frozen, statistics)

        first = frozen.layers[0]
        exact = weights[f"{first.name}.weight"].astype(np.float64)
        coarse = frozen.matrices[first.name].dequantize(np.full(first.n_channels, 2, np.uint8))
        expected = 0.5 * ((coarse - exact) ** 2).sum(axis=1)
        np.testing.assert_allclose(sensitivity[: first.n_channels, 0], expected, rtol=1e-9)

    def test_what_it_calls_sensitive_hurts(
        self,
        model: SASRec,
        sequences: list[NDArray[np.int32]],
        weights: dict[str, NDArray[np.float32]],
        frozen: FrozenModel,
        sensitivity: NDArray[np.float64],
    ) -> None:
        """The most sensitive channels at 2 bits raise the loss, the least sensitive do not."""
        order = np.argsort(sensitivity[:, 0])

        def rise(channels: NDArray[np.int64]) -> float:
            widths = np.full(len(sensitivity), 8, np.uint8)
            widths[channels] = 2
            coarse, is_two = frozen.adapt(widths), split_by_layer(widths == 2, frozen.layers)
            mixed = {
                name: np.where(is_two[name.removesuffix(".weight")][:, None], coarse[name], exact)
                for name, exact in weights.items()
            }
            return mean_loss(with_weights(model, mixed), sequences) - mean_loss(model, sequences)

        most, least = rise(order[-8:]), rise(order[:8])

        assert most > 10 * abs(least)
        predicted = sensitivity[order[-8:], 0].sum()
        assert 0.2 * predicted < most < 5 * predicted
