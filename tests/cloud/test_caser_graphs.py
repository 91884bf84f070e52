# SPDX-License-Identifier: Apache-2.0
"""A Caser's graphs: what is in them, and that they compute the reference."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.graph_contract import (
    GRAPH_CONTRACT,
    GRAPH_CONTRACT_KEY,
    stack_weights,
    stacked_layers,
)
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.references import make_reference
from pocketrec_quantization.testing import TINY_CASER, tiny_frozen

SHAPES: tuple[dict[str, int], ...] = (
    {},
    {"window": 1, "max_height": 1},
    {"window": 2, "max_height": 2},
    {"window": 3, "max_height": 1},
    {"window": 6, "max_height": 6, "embedding_dim": 5, "n_horizontal": 1, "n_vertical": 1},
)


def config_of(**changes: Any) -> BackboneConfig:
    """Return the tiny architecture with other numbers."""
    fields = {"kind": "caser", "embedding_dim": 4, "window": 5, "max_height": 3}
    return BackboneConfig(**{**fields, "n_horizontal": 3, "n_vertical": 2, **changes})


@cache
def graphs_of(config: BackboneConfig) -> dict[str, bytes]:
    """Return the graphs of random weights."""
    return write_graphs(tiny_frozen(config).dense, config)


def step_of(config: BackboneConfig) -> onnx.ModelProto:
    """Return the step as the onnx package reads it."""
    return onnx.load_from_string(graphs_of(config)["step"])


def sizes(entry: onnx.ValueInfoProto) -> list[int | str]:
    """Return the declared shape of an input or output."""
    return [size.dim_param or size.dim_value for size in entry.type.tensor_type.shape.dim]


def test_there_is_no_prefill() -> None:
    """A step sees the whole window, so a history needs no function of its own."""
    assert graphs_of(TINY_CASER).keys() == {"step", "score"}


def test_a_window_goes_in_and_a_state_comes_out() -> None:
    """The graph keeps no state, and takes every coded matrix as an input of its own."""
    model = step_of(TINY_CASER)
    frozen = tiny_frozen(TINY_CASER)

    inputs = {entry.name: sizes(entry) for entry in model.graph.input}
    weights = {
        f"weights/{layer.name}": [layer.n_elements, layer.n_channels] for layer in frozen.layers
    }
    assert inputs == {"window": [5, 4], **weights}
    assert {entry.name: sizes(entry) for entry in model.graph.output} == {"h": [1, 4]}


def test_operators_are_the_standards_and_few() -> None:
    """One product per coded matrix, and no more beside it than unfolding and pooling take."""
    model = step_of(TINY_CASER)

    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties == {GRAPH_CONTRACT_KEY: GRAPH_CONTRACT}
    assert Counter(node.op_type for node in model.graph.node) == {
        "Gather": 2,
        "Reshape": 2 + 1,
        "Gemm": 3 + 1 + 1,
        "ReduceMax": 3,
        "Concat": 2,
        "Relu": 1,
        "Transpose": 1,
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_what_the_reference_computes(shape: dict[str, int]) -> None:
    """Under a plan of mixed widths, with channels that are pruned."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'device'")
    config = config_of(**shape)
    frozen = tiny_frozen(config)
    widths = np.resize(np.array([8, 4, 2, 0], np.uint8), total_channels(frozen.layers))
    weights = frozen.adapt(widths)
    reference = make_reference({**frozen.dense, **weights}, config)
    session = onnxruntime.InferenceSession(graphs_of(config)["step"])
    stacked = {
        entry.name: stack_weights(entry.name, weights)
        for entry in session.get_inputs()
        if stacked_layers(entry.name)
    }

    for n_events in range(1, config.window + 1):
        rng = np.random.default_rng(n_events)
        x = rng.normal(size=(n_events, config.embedding_dim)).astype(np.float32)
        window = np.zeros((config.window, config.embedding_dim), np.float32)
        window[config.window - n_events :] = x

        (h,) = session.run(["h"], {"window": window, **stacked})

        np.testing.assert_allclose(h[0], reference.state_after(x), atol=2e-5)


def test_writing_again_gives_equal_bytes() -> None:
    """A bundle whose model did not change is not sent again."""
    again = write_graphs(dict(reversed(list(tiny_frozen(TINY_CASER).dense.items()))), TINY_CASER)

    assert again == graphs_of(TINY_CASER)
