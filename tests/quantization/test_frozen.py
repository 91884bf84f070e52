# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from pocketrec.errors import ConfigError, MalformedArtifactError, QuantizationError
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.quantizer import freeze_matrix
from pocketrec_quantization.testing import tiny_frozen

MODEL = tiny_frozen()
DATA = MODEL.to_bytes()
MATRIX = freeze_matrix(np.eye(2, dtype=np.float32))


def test_a_part_holds_everything() -> None:
    """Layers, order, stores and dense tensors come back bit for bit."""
    read = FrozenModel.from_bytes(DATA)

    assert read.layers == MODEL.layers
    assert read.to_bytes() == DATA
    assert read.dense.keys() == MODEL.dense.keys()


def test_the_digest_is_that_of_the_bytes() -> None:
    """Plans are bound to the SHA-256 of the part, before and after it was read."""
    assert MODEL.digest == hashlib.sha256(DATA).digest()
    assert FrozenModel.from_bytes(DATA).digest == MODEL.digest


def test_the_digest_is_that_of_other_writers_bytes() -> None:
    """A part that another library laid out differently keeps the digest of its own bytes."""
    tensors = safetensors.numpy.load(DATA)
    names = ",".join(layer.name for layer in MODEL.layers)
    metadata = {"version": "1.0", "layers": names, "format": "pocketrec.frozen"}
    foreign = safetensors.numpy.save(tensors, metadata=metadata)

    assert FrozenModel.from_bytes(foreign).digest == hashlib.sha256(foreign).digest()


def test_adapting_reads_each_channel_at_its_width() -> None:
    """The weights of a plan are those of its layers, at the plan's widths."""
    widths = np.resize(np.array([2, 8, 0, 4], np.uint8), total_channels(MODEL.layers))

    weights = MODEL.adapt(widths)

    assert list(weights) == [f"{layer.name}.weight" for layer in MODEL.layers]
    first = MODEL.layers[0]
    expected = MODEL.matrices[first.name].dequantize(widths[: first.n_channels])
    np.testing.assert_array_equal(weights[f"{first.name}.weight"], expected)


def test_adapting_gives_the_same_bits_after_a_journey() -> None:
    """Cloud and device compute identical weights from the same part."""
    widths = np.resize(np.array([2, 4, 8], np.uint8), total_channels(MODEL.layers))

    here, there = MODEL.adapt(widths), FrozenModel.from_bytes(DATA).adapt(widths)

    assert all(here[name].tobytes() == there[name].tobytes() for name in here)


@pytest.mark.parametrize("widths", [np.full(3, 8, np.uint8), np.full(56, 5, np.uint8)])
def test_adapting_needs_a_stored_width_for_each_channel(widths: np.ndarray) -> None:
    """Another number of channels, or a width that is not stored, is refused."""
    with pytest.raises(QuantizationError, match="expected"):
        MODEL.adapt(widths)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"matrices": {}, "dense": {}}, id="no layers"),
        pytest.param({"matrices": {"a,b": MATRIX}, "dense": {}}, id="name with a comma"),
        pytest.param(
            {"matrices": {"a": MATRIX}, "dense": {"n": np.ones(2)}}, id="dense tensor in float64"
        ),
        pytest.param(
            {"matrices": {"a": MATRIX}, "dense": {"n": np.full(2, np.nan, np.float32)}},
            id="dense tensor with NaN",
        ),
        pytest.param(
            {"matrices": {"a": MATRIX}, "dense": {"/n": np.ones(2, np.float32)}},
            id="dense tensor with an unfit name",
        ),
    ],
)
def test_models_that_make_no_sense(fields: Any) -> None:
    """A model needs layers, fit names and finite float32 tensors."""
    with pytest.raises(ConfigError):
        FrozenModel(**fields)


def test_layers_must_be_complete() -> None:
    """A layer that is listed without its scales is refused by name."""
    tensors = safetensors.numpy.load(DATA)
    del tensors["scales/blocks.0.q"]
    names = ",".join(layer.name for layer in MODEL.layers)
    metadata = {"version": "1.0", "layers": names, "format": "pocketrec.frozen"}

    with pytest.raises(MalformedArtifactError, match=r"scales/blocks\.0\.q: expected this tensor"):
        FrozenModel.from_bytes(safetensors.numpy.save(tensors, metadata=metadata))
