# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketrec.errors import ConfigError, MissingExtraError, QuantizationError
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_cloud.checkpoint import load_backbone
from pocketrec_cloud.export import coded_names, with_weights
from pocketrec_cloud.planning import peers
from pocketrec_cloud.planning.peers import calibration_batches, gptq_weights, rtn_weights

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained

pytestmark = pytest.mark.usefixtures("one_thread")

Weights: TypeAlias = dict[str, NDArray[np.float32]]
Quantized: TypeAlias = Callable[[str, int], Weights]
SEQUENCES = [np.arange(1, n + 1, dtype=np.int32) for n in (1, 3, 3, 4, 9, 9, 9)]
HALF = 2.0**-10  # what rounding a scale to float16 may add, relative
needs_library = pytest.mark.skipif(
    find_spec("neural_compressor") is None or find_spec("accelerate") is None,
    reason="needs the extra 'baselines'",
)


class Convolving(SASRec):
    """Sends pairs of neighbouring events through all its matrices, one after the other."""

    def forward(self, items: Tensor) -> Tensor:
        """Return (B, T, D) float32."""
        x = self.item_embedding(items) * self.input_scale
        pairs = torch.stack([x, x.roll(1, dims=1)], dim=2)  # (B, T, 2, D)
        for name in coded_names(self):
            pairs = self.get_submodule(name)(pairs).tanh()
        return pairs.mean(2)


@pytest.fixture(scope="module")
def model(tiny_training: Trained) -> SASRec:
    """The tiny trained backbone."""
    found = tiny_training.result.model
    assert isinstance(found, SASRec)
    return found


@pytest.fixture(scope="module")
def calibration(tiny_training: Trained) -> list[Tensor]:
    """Histories of its training, without padding."""
    sequences = tiny_training.split.train_sequences()
    return calibration_batches(sequences, window=8, n_users=64)


def matrices(model: SASRec) -> dict[str, NDArray[np.float32]]:
    """Return the coded matrices by parameter name."""
    names = [f"{name}.weight" for name in coded_names(model)]
    return {name: model.get_parameter(name).detach().numpy() for name in names}


@pytest.fixture(scope="module")
def quantized(model: SASRec, calibration: list[Tensor]) -> Quantized:
    """Quantizes by either method, once per width."""

    @cache
    def run(method: str, bits: int) -> Weights:
        if method == "rtn":
            return rtn_weights(model, bits)
        return gptq_weights(model, bits, calibration)

    return run


def output_error(model: SASRec, other: SASRec, batches: list[Tensor]) -> float:
    """Return the relative squared difference of two models' states."""
    with torch.inference_mode():
        pairs = [(model(items), other(items)) for items in batches]
    wrong = torch.cat([(a - b).flatten() for a, b in pairs])
    whole = torch.cat([a.flatten() for a, _ in pairs])
    return float(wrong.square().sum() / whole.square().sum())


@needs_library
@pytest.mark.parametrize("method", ["rtn", pytest.param("gptq", marks=pytest.mark.slow)])
class TestEitherMethod:
    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_a_channel_has_no_more_values_than_codes(
        self, method: str, bits: int, model: SASRec, quantized: Quantized
    ) -> None:
        """Every coded matrix comes back in its shape, multiples of one scale per channel."""
        found, exact = quantized(method, bits), matrices(model)

        assert found.keys() == exact.keys()
        for name, array in found.items():
            assert array.dtype == np.float32
            assert array.shape == exact[name].shape
            assert max(len(np.unique(row)) for row in array) <= 2**bits
            assert not np.array_equal(array, exact[name])

    def test_the_model_is_left_alone(
        self, method: str, model: SASRec, tiny_training: Trained, quantized: Quantized
    ) -> None:
        """Matrices, embeddings and norms keep their values, and modules their types."""
        quantized(method, 2)

        fresh, _, _ = load_backbone(tiny_training.checkpoint)
        before, after = fresh.state_dict(), model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert [type(m) for m in model.modules()] == [type(m) for m in fresh.modules()]
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_equal_calls_give_equal_weights(
        self, method: str, model: SASRec, calibration: list[Tensor], quantized: Quantized
    ) -> None:
        """Nothing about it is random."""
        again = rtn_weights(model, 4) if method == "rtn" else gptq_weights(model, 4, calibration)

        for name, array in quantized(method, 4).items():
            np.testing.assert_array_equal(array, again[name])

    def test_more_bits_are_closer(
        self, method: str, model: SASRec, calibration: list[Tensor], quantized: Quantized
    ) -> None:
        """The model's outputs err less at 4 than at 2 bits, and less again at 8."""
        models = [with_weights(model, quantized(method, bits)) for bits in (2, 4, 8)]

        errors = [output_error(model, other, calibration) for other in models]

        assert errors[0] > 4 * errors[1] > 16 * errors[2]


@needs_library
def test_nothing_is_written_where_the_process_started(tmp_path: Path) -> None:
    """The library's workspace goes elsewhere, and its log is kept from a user's eyes."""
    program = """
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_cloud.planning.peers import gptq_weights, rtn_weights
import torch
model = SASRec(SASRecConfig(n_items=9, embedding_dim=4, n_blocks=1, window=4)).eval()
rtn_weights(model, 4)
gptq_weights(model, 4, [torch.arange(1, 9).reshape(2, 4)])
"""

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert list(tmp_path.iterdir()) == []
    assert done.stdout + done.stderr == ""


@needs_library
class TestRoundToNearest:
    @pytest.mark.parametrize("bits", [4, 8])
    def test_no_weight_moves_more_than_half_a_step(
        self, bits: int, model: SASRec, quantized: Quantized
    ) -> None:
        """A step is the channel's largest weight over the largest code."""
        found = quantized("rtn", bits)

        for name, exact in matrices(model).items():
            largest = np.abs(exact).max(axis=1, keepdims=True)
            bound = largest / (2 ** (bits - 1) - 1) / 2 + largest * HALF
            assert (np.abs(found[name] - exact) <= bound).all()

    def test_a_search_for_the_clip_errs_less(self, model: SASRec, quantized: Quantized) -> None:
        """The library's own search lowers the squared error of every matrix at 2 bits."""
        plain, searched = quantized("rtn", 2), rtn_weights(model, 2, mse_search=True)

        for name, exact in matrices(model).items():
            before, after = (np.square(w[name] - exact).sum() for w in (plain, searched))
            assert after < before


@needs_library
class TestGptq:
    @pytest.mark.slow
    def test_it_errs_less_on_what_it_has_seen_than_rounding(
        self, model: SASRec, calibration: list[Tensor], quantized: Quantized
    ) -> None:
        """At 4 bits the outputs are closer than those of round to nearest."""
        rounded, found = (with_weights(model, quantized(name, 4)) for name in ("rtn", "gptq"))

        assert output_error(model, found, calibration) < output_error(model, rounded, calibration)

    def test_matrices_may_have_several_inputs_per_event(self, calibration: list[Tensor]) -> None:
        """A backbone that convolves is calibrated all the same: (B, T, P, N) inputs."""
        torch.manual_seed(0)
        model = Convolving(
            SASRecConfig(n_items=60, embedding_dim=8, n_blocks=1, dropout=0.0)
        ).eval()
        rounded = with_weights(model, rtn_weights(model, 4))

        found = with_weights(model, gptq_weights(model, 4, calibration))

        assert output_error(model, found, calibration) < output_error(model, rounded, calibration)

    def test_it_needs_something_to_calibrate_with(self, model: SASRec) -> None:
        """Without batches there are no statistics."""
        with pytest.raises(ConfigError, match="calibrate"):
            gptq_weights(model, 4, [])


class TestCalibrationBatches:
    def test_a_batch_holds_one_length_and_no_padding(self) -> None:
        """Histories are cut to the window, inputs only, and those of one event left out."""
        batches = calibration_batches(SEQUENCES, window=4)

        assert [tuple(items.shape) for items in batches] == [(2, 2), (1, 3), (3, 4)]
        assert all((items > 0).all() for items in batches)
        assert batches[0].dtype == torch.int64

    def test_the_seed_draws_the_users(self) -> None:
        """As many as asked for; the same for the same seed."""
        drawn = [calibration_batches(SEQUENCES, window=4, n_users=3, seed=7) for _ in "ab"]

        assert sum(items.shape[0] for items in drawn[0]) <= 3
        assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))

    def test_users_without_two_events_are_refused(self) -> None:
        """There is nothing to learn from them."""
        with pytest.raises(ConfigError, match="calibration users"):
            calibration_batches(SEQUENCES[:1], window=4)


@pytest.mark.parametrize("missing", ["neural_compressor", "accelerate"])
def test_a_missing_library_is_named_with_its_cure(
    model: SASRec, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """The message says what to install, also for what the library forgets to ask for."""
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == missing else object())

    with pytest.raises(MissingExtraError, match=rf"{missing}.*pocketrec\[cloud,baselines\]"):
        rtn_weights(model, 8)


def test_widths_are_those_that_are_stored(model: SASRec, calibration: list[Tensor]) -> None:
    """Only 2, 4 and 8 bits are compared."""
    with pytest.raises(QuantizationError, match="bits: expected"):
        rtn_weights(model, 3)
    with pytest.raises(QuantizationError, match="bits: expected"):
        gptq_weights(model, 16, calibration)
