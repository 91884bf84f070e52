# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketrec.errors import QuantizationError
from pocketrec_cloud.backbones.sasrec import SASRec
from pocketrec_cloud.batches import pad
from pocketrec_cloud.export import coded_names, with_weights
from pocketrec_cloud.losses import softmax_loss
from pocketrec_cloud.planning.qat import train_quantized
from pocketrec_cloud.training import TrainingConfig
from pocketrec_quantization.quantizer import freeze_matrix

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained, Watcher

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainingConfig(
    max_epochs=2, tokens_per_batch=512, learning_rate=3e-3, n_negatives=60, seed=1
)


@pytest.fixture(scope="module")
def model(tiny_training: Trained) -> SASRec:
    """The tiny trained backbone."""
    found = tiny_training.result.model
    assert isinstance(found, SASRec)
    return found


@pytest.fixture(scope="module")
def sequences(tiny_training: Trained) -> list[NDArray[np.int32]]:
    """Its training events."""
    return tiny_training.split.train_sequences()


def matrices(model: SASRec) -> dict[str, NDArray[np.float32]]:
    """Return the coded matrices by parameter name."""
    names = [f"{name}.weight" for name in coded_names(model)]
    return {name: model.get_parameter(name).detach().numpy() for name in names}


def at_width(model: SASRec, bits: int) -> dict[str, NDArray[np.float32]]:
    """Return what our quantizer makes of the coded matrices."""
    return {
        name: freeze_matrix(weights).dequantize(np.full(len(weights), bits, np.uint8))
        for name, weights in matrices(model).items()
    }


def mean_loss(model: SASRec, sequences: list[NDArray[np.int32]]) -> float:
    """Return the mean loss over the last events of everybody."""
    recent = [row[-9:] for row in sequences if row.shape[0] >= 2]
    inputs, targets = pad([row[:-1] for row in recent]), pad([row[1:] for row in recent])
    real = targets > 0
    with torch.inference_mode():
        hidden = model(inputs)[real]
        return softmax_loss(hidden, targets[real], model.item_embedding.weight).item()


class TestTraining:
    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_freezing_gives_what_was_trained(
        self, model: SASRec, sequences: list[NDArray[np.int32]], watcher: Watcher, bits: int
    ) -> None:
        """The quantizer reads the trained matrices at their width without a loss."""
        trained = train_quantized(model, sequences, CONFIG, bits=bits, progress=watcher)

        for name, frozen in at_width(trained, bits).items():
            weights = matrices(trained)[name]
            np.testing.assert_allclose(frozen, weights, rtol=1e-6, atol=1e-9)
            assert max(len(np.unique(row)) for row in weights) < 2**bits
        assert not trained.training

    def test_training_at_two_bits_beats_rounding_to_two_bits(
        self, model: SASRec, sequences: list[NDArray[np.int32]], watcher: Watcher
    ) -> None:
        """That is what it is for: the loss of plain rounding is won back in part."""
        rounded = mean_loss(with_weights(model, at_width(model, 2)), sequences)

        trained = train_quantized(model, sequences, CONFIG, bits=2, progress=watcher)

        assert mean_loss(trained, sequences) < rounded

    def test_a_seed_gives_one_model(
        self, model: SASRec, sequences: list[NDArray[np.int32]], watcher: Watcher
    ) -> None:
        """The same call gives the same weights bit for bit."""
        one, two = (
            train_quantized(model, sequences, CONFIG, bits=4, progress=watcher).state_dict()
            for _ in range(2)
        )

        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_the_model_given_is_left_alone(
        self, model: SASRec, sequences: list[NDArray[np.int32]], watcher: Watcher
    ) -> None:
        """Only a copy is trained, and it has the same tensors."""
        before = {name: value.clone() for name, value in model.state_dict().items()}

        trained = train_quantized(model, sequences, CONFIG, bits=4, progress=watcher)

        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert trained.state_dict().keys() == before.keys()
        assert not torch.equal(trained.item_embedding.weight, model.item_embedding.weight)

    def test_every_epoch_is_reported(
        self, model: SASRec, sequences: list[NDArray[np.int32]], watcher: Watcher
    ) -> None:
        """As many epochs as were asked for, with falling losses and no evaluation."""
        train_quantized(model, sequences, CONFIG, bits=2, progress=watcher)

        assert [record.epoch for record in watcher.records] == [1, 2]
        assert watcher.records[1].loss < watcher.records[0].loss
        assert watcher.records[1].validation_ndcg10 is None
        assert watcher.shares[-1] == pytest.approx(2)

    def test_a_channel_of_zeros_stays_finite(
        self, model: SASRec, sequences: list[NDArray[np.int32]], watcher: Watcher
    ) -> None:
        """A scale of zero is no division by zero."""
        name = f"{coded_names(model)[0]}.weight"
        zeroed = matrices(model)[name].copy()
        zeroed[0] = 0

        trained = train_quantized(
            with_weights(model, {name: zeroed}), sequences, CONFIG, bits=4, progress=watcher
        )

        assert all(value.isfinite().all() for value in trained.state_dict().values())


def test_widths_are_those_that_are_stored(model: SASRec, watcher: Watcher) -> None:
    """There is no grid of 3 bits."""
    with pytest.raises(QuantizationError, match="bits: expected"):
        train_quantized(model, [], CONFIG, bits=3, progress=watcher)
