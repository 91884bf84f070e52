# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.float_twin import FLOAT_TWIN_KIND, FloatTwin
from pocketrec_quantization.tensors import write_tensors

TWIN = FloatTwin(
    weights={
        "blocks.0.q.weight": np.array([[1.5, -2], [0, 3]], np.float32),
        "blocks.0.ffn1.weight": np.ones((3, 2), np.float32),
    },
    item_embeddings=np.arange(8, dtype=np.float32).reshape(4, 2),
)


def test_a_twin_survives_the_journey() -> None:
    """Every float comes back bit for bit under its name."""
    read = FloatTwin.from_bytes(TWIN.to_bytes())

    assert read.weights.keys() == TWIN.weights.keys()
    for name, array in TWIN.weights.items():
        np.testing.assert_array_equal(read.weights[name], array)
    np.testing.assert_array_equal(read.item_embeddings, TWIN.item_embeddings)


def test_equal_twins_are_equal_bytes() -> None:
    """What was read is written as it was."""
    data = TWIN.to_bytes()

    assert FloatTwin.from_bytes(data).to_bytes() == data


def test_bytes_are_those_of_all_arrays() -> None:
    """4 and 6 weights and 8 embeddings of 4 bytes each."""
    assert TWIN.n_bytes == 4 * (4 + 6 + 8)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.float64),
        np.zeros(4, np.float32),
        np.array([[np.nan]], np.float32),
        np.array([[np.inf]], np.float32),
    ],
    ids=["double", "flat", "nan", "infinite"],
)
@pytest.mark.parametrize("place", ["weights", "item_embeddings"])
def test_only_finite_float32_matrices_are_taken(array: NDArray[Any], place: str) -> None:
    """A control must be as sound as what it is compared with."""
    fields: dict[str, Any] = {"weights": TWIN.weights, "item_embeddings": TWIN.item_embeddings}
    fields[place] = {"blocks.0.q.weight": array} if place == "weights" else array

    with pytest.raises(ConfigError, match="expected a finite float32 matrix"):
        FloatTwin(**fields)


@pytest.mark.parametrize(
    ("tensors", "field"),
    [
        ({"weight/a": np.ones((1, 1), np.float32)}, "item_embeddings"),
        ({"item_embeddings": np.ones((1, 1), np.float64)}, "item_embeddings"),
        ({"item_embeddings": np.ones((1, 1), np.float32), "a": np.ones(1, np.float32)}, "a"),
        ({"item_embeddings": np.full((1, 1), np.nan, np.float32)}, "float twin"),
    ],
    ids=["no embeddings", "double", "surplus tensor", "nan"],
)
def test_malformed_files_are_refused(tensors: dict[str, NDArray[Any]], field: str) -> None:
    """The error names what is wrong with the bytes."""
    with pytest.raises(MalformedArtifactError) as caught:
        FloatTwin.from_bytes(write_tensors(tensors, kind=FLOAT_TWIN_KIND))

    assert caught.value.field == field


def test_another_kind_of_file_is_refused() -> None:
    """A bundle's part is no float twin."""
    with pytest.raises(MalformedArtifactError, match=r"pocketrec\.float"):
        FloatTwin.from_bytes(write_tensors({"a": np.ones(1, np.int8)}, kind="pocketrec.frozen"))
