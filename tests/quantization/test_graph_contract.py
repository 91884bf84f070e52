# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec_quantization.backbone import coded_layers
from pocketrec_quantization.graph_contract import (
    GRAPH_CONTRACT,
    GRAPH_CONTRACT_KEY,
    stack_weights,
    stacked_layers,
    stacked_name,
)
from pocketrec_quantization.testing import TINY_CONFIG

layer_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)  # no plus sign


def test_names_are_those_of_the_format() -> None:
    """Bundles that exist carry these words: changing one is a new contract."""
    assert (GRAPH_CONTRACT_KEY, GRAPH_CONTRACT) == ("pocketrec.graphs", "2")
    assert stacked_name(["blocks.0.q"]) == "weights/blocks.0.q"
    assert stacked_name(["blocks.0.k", "blocks.0.v"]) == "weights/blocks.0.k+blocks.0.v"


@given(st.lists(layer_names, min_size=1, max_size=5))
def test_a_name_tells_its_layers(layers: list[str]) -> None:
    """Whatever a layer may be called, reading a name gives back what it was made of."""
    assert stacked_layers(stacked_name(layers)) == tuple(layers)


def test_layers_of_a_backbone_can_be_told_apart() -> None:
    """No layer that a backbone has contains the sign that joins them."""
    layers = [layer.name for layer in coded_layers(TINY_CONFIG)]

    assert stacked_layers(stacked_name(layers)) == tuple(layers)


@pytest.mark.parametrize("name", ["x", "blocks.0.keys", "blocks.0.q.weight", "", "weight/x"])
def test_other_inputs_take_no_weights(name: str) -> None:
    """What does not begin with the prefix stacks nothing."""
    assert stacked_layers(name) == ()


def test_weights_are_stacked_and_transposed() -> None:
    """Two layers of 3 inputs become one product of 3 inputs and all their channels."""
    weights = {
        "a.weight": np.array([[1, 2, 3]], np.float32),
        "b.weight": np.array([[4, 5, 6], [7, 8, 9]], np.float32),
    }

    stacked = stack_weights(stacked_name(["a", "b"]), weights)

    assert stacked.tolist() == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]
    assert stacked.flags.c_contiguous
    assert stacked.dtype == np.float32


def test_a_product_with_stacked_weights_is_the_products_side_by_side() -> None:
    """Multiplying once gives what multiplying layer by layer gives."""
    rng = np.random.default_rng(0)
    weights = {
        f"{n}.weight": rng.integers(-9, 9, (c, 4)).astype(np.float32)
        for n, c in [("a", 2), ("b", 3)]
    }
    x = rng.integers(-9, 9, (5, 4)).astype(np.float32)

    together = x @ stack_weights(stacked_name(["a", "b"]), weights)

    apart = np.hstack([x @ weights["a.weight"].T, x @ weights["b.weight"].T])
    np.testing.assert_array_equal(together, apart)


def test_a_layer_without_weights_is_an_error() -> None:
    """A name that stacks a layer there is not cannot be filled."""
    with pytest.raises(KeyError, match=r"b\.weight"):
        stack_weights(stacked_name(["a", "b"]), {"a.weight": np.ones((1, 4), np.float32)})
