# SPDX-License-Identifier: Apache-2.0
"""Graphs that are written node by node: what is in them, and that they compute the reference."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from pocketrec.telemetry import import_onnxruntime
from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_quantization.attention_bias import RingBias, stack_relative_bias
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.graph_contract import (
    GRAPH_CONTRACT,
    GRAPH_CONTRACT_KEY,
    stacked_layers,
)
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.testing import TINY_CONFIG, tiny_frozen

if TYPE_CHECKING:
    from pocketrec_cloud.graph_checks import OnnxFunctions

PER_STEP_BLOCK = 15
FUNCTIONS = ("prefill", "step", "score")
SHAPES = (
    {"window": 1},
    {"window": 2},
    {"window": 5},
    {"window": 5, "n_blocks": 1, "n_heads": 1},
    {"window": 3, "n_blocks": 3, "embedding_dim": 6, "n_heads": 3, "ffn_multiplier": 4},
)


def config_of(**changes: Any) -> BackboneConfig:
    """Return the tiny architecture with other numbers."""
    fields = {"kind": "sasrec", "embedding_dim": 4, "n_blocks": 2, "n_heads": 2, "window": 5}
    return BackboneConfig(**{**fields, "ffn_multiplier": 2, **changes})


@cache
def frozen_of(config: BackboneConfig) -> FrozenModel:
    """Return random weights."""
    return tiny_frozen(config)


@cache
def graphs_of(config: BackboneConfig) -> dict[str, bytes]:
    """Return the graphs of those weights."""
    return write_graphs(frozen_of(config).dense, config)


def parsed(name: str, config: BackboneConfig = TINY_CONFIG) -> onnx.ModelProto:
    """Return a graph as the onnx package reads it."""
    return onnx.load_from_string(graphs_of(config)[name])


def sizes(entry: onnx.ValueInfoProto) -> list[int | str]:
    """Return the declared shape of an input or output."""
    return [size.dim_param or size.dim_value for size in entry.type.tensor_type.shape.dim]


def mixed_weights(config: BackboneConfig) -> dict[str, np.ndarray]:
    """Return the coded matrices under a plan of mixed widths."""
    widths = np.resize(np.array([2, 4, 8, 0], np.uint8), total_channels(frozen_of(config).layers))
    return frozen_of(config).adapt(widths)


def functions_of(config: BackboneConfig) -> OnnxFunctions:
    """Return the graphs under that plan, in ONNX Runtime."""
    pytest.importorskip("torch", reason="needs the extra 'cloud'")
    from pocketrec_cloud.graph_checks import OnnxFunctions

    relative = stack_relative_bias(frozen_of(config).dense, config.n_blocks)
    return OnnxFunctions(graphs_of(config), mixed_weights(config), relative)


def reference_of(config: BackboneConfig) -> ReferenceBackend:
    """Return the same in NumPy."""
    return ReferenceBackend({**frozen_of(config).dense, **mixed_weights(config)}, config)


class TestContents:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_operators_are_the_standards(self, name: str) -> None:
        """One import, opset 23, and nothing of any runtime's own: any ONNX runtime reads them."""
        model = parsed(name)

        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
        assert {node.domain for node in model.graph.node} == {""}
        for node in model.graph.node:
            assert onnx.defs.has(node.op_type, 23)
        onnx.checker.check_model(model, full_check=True)

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_the_contract_is_declared(self, name: str) -> None:
        """A device that keeps another contract can tell."""
        properties = {entry.key: entry.value for entry in parsed(name).metadata_props}

        assert properties == {GRAPH_CONTRACT_KEY: GRAPH_CONTRACT}

    @pytest.mark.parametrize("changes", [{}, {"window": 50, "embedding_dim": 8, "n_heads": 4}])
    @pytest.mark.parametrize("n_blocks", [1, 2, 4])
    def test_a_step_is_a_few_nodes_per_block(self, n_blocks: int, changes: dict[str, int]) -> None:
        """What a node costs is most of what a step costs: their number is part of the design."""
        config = config_of(n_blocks=n_blocks, **changes)

        counts = Counter(node.op_type for node in parsed("step", config).graph.node)

        assert counts.total() == PER_STEP_BLOCK * n_blocks + 1
        assert counts == {
            "Add": 2 * n_blocks,
            "Attention": n_blocks,
            "Concat": 2 * n_blocks,
            "Gemm": 4 * n_blocks,
            "LayerNormalization": 2 * n_blocks + 1,
            "Relu": n_blocks,
            "Reshape": 2 * n_blocks,
            "Split": n_blocks,
        }

    def test_a_history_computes_one_row_of_the_last_block(self) -> None:
        """Keys and values of all events are cached, but only the last event's state is needed."""
        model = parsed("prefill")
        products = [node.output[0] for node in model.graph.node if node.op_type == "Gemm"]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in products)
        session = import_onnxruntime().InferenceSession(model.SerializeToString())
        feeds = {
            entry.name: np.zeros([int(str(n).replace("T", "4")) for n in sizes(entry)], np.float32)
            for entry in model.graph.input
        }

        made = dict(zip(products, session.run(products, feeds), strict=True))

        n_rows = {stacked_layers(name.removesuffix("/out")): len(made[name]) for name in made}
        expected = {
            ("blocks.0.q", "blocks.0.k", "blocks.0.v"): 4,
            ("blocks.0.o",): 4,
            ("blocks.0.ffn1",): 4,
            ("blocks.0.ffn2",): 4,
            ("blocks.1.k", "blocks.1.v"): 4,
            ("blocks.1.q",): 1,
            ("blocks.1.o",): 1,
            ("blocks.1.ffn1",): 1,
            ("blocks.1.ffn2",): 1,
        }
        assert n_rows == expected

    def test_scoring_is_one_node(self) -> None:
        """Inner products need no more."""
        assert [node.op_type for node in parsed("score").graph.node] == ["Gemm"]

    @pytest.mark.parametrize("name", ["prefill", "step"])
    def test_values_have_unique_names(self, name: str) -> None:
        """No node overwrites what another one made."""
        graph = parsed(name).graph
        made = [output for node in graph.node for output in node.output]
        given = [entry.name for entry in graph.input]
        given += [tensor.name for tensor in graph.initializer]

        assert len({*made, *given}) == len(made) + len(given)


class TestInterface:
    def test_of_a_step(self) -> None:
        """An event, L - 1 cached rows and a bias per block go in; a row per block comes out."""
        graph = parsed("step").graph
        inputs = {e.name: sizes(e) for e in graph.input if not stacked_layers(e.name)}

        assert inputs == {
            "x": [1, 4],
            **{f"blocks.{i}.{kind}": [1, 4, 4] for i in (0, 1) for kind in ("keys", "values")},
            **{f"blocks.{i}.bias": [1, 2, 1, 5] for i in (0, 1)},
        }
        assert {e.name: sizes(e) for e in graph.output} == {
            **{f"blocks.{i}.new_{kind}": [1, 1, 4] for i in (0, 1) for kind in ("keys", "values")},
            "h": [1, 4],
        }

    def test_of_a_history(self) -> None:
        """T events go in, with biases, one row of them in the last block; T rows come out."""
        graph = parsed("prefill").graph
        inputs = {e.name: sizes(e) for e in graph.input if not stacked_layers(e.name)}

        assert inputs == {
            "x": ["T", 4],
            "blocks.0.bias": [1, 2, "T", "T"],
            "blocks.1.bias": [1, 2, 1, "T"],
        }
        assert {e.name: sizes(e) for e in graph.output} == {
            **{f"blocks.{i}.{kind}": [1, "T", 4] for i in (0, 1) for kind in ("keys", "values")},
            "h": [1, 4],
        }

    def test_of_scoring(self) -> None:
        """A state and candidates go in, scores come out."""
        graph = parsed("score").graph

        assert {e.name: sizes(e) for e in graph.input} == {"h": [1, 4], "candidates": ["M", 4]}
        assert {e.name: sizes(e) for e in graph.output} == {"scores": [1, "M"]}

    @pytest.mark.parametrize("name", ["prefill", "step"])
    def test_only_weights_depend_on_a_plan(self, name: str) -> None:
        """Every coded matrix is an input, once, and no other number in a graph is of one."""
        graph = parsed(name).graph
        frozen = frozen_of(TINY_CONFIG)
        sides = {layer.name: (layer.n_elements, layer.n_channels) for layer in frozen.layers}

        stacked = {stacked_layers(e.name): sizes(e) for e in graph.input if stacked_layers(e.name)}
        floats = [
            onnx.numpy_helper.to_array(tensor)
            for tensor in graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT
        ]

        assert sorted(layer for layers in stacked for layer in layers) == sorted(sides)
        for layers, shape in stacked.items():
            assert shape == [sides[layers[0]][0], sum(sides[layer][1] for layer in layers)]
        dense = {value for array in frozen.dense.values() for value in array.ravel().tolist()}
        assert {array.ndim for array in floats} == {1}
        assert {value for array in floats for value in array.tolist()} <= dense

    def test_biases_by_distance_are_not_inside(self) -> None:
        """Positions are the host's business: no learned bias is among a graph's bytes."""
        for graph in graphs_of(TINY_CONFIG).values():
            for block in range(TINY_CONFIG.n_blocks):
                bias = frozen_of(TINY_CONFIG).dense[f"blocks.{block}.relative_bias"]
                for row in bias:
                    assert row.tobytes() not in graph

    def test_writing_again_gives_equal_bytes(self) -> None:
        """A bundle whose model did not change is not sent again."""
        again = write_graphs(
            dict(reversed(list(frozen_of(TINY_CONFIG).dense.items()))), TINY_CONFIG
        )

        assert again == graphs_of(TINY_CONFIG)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
class TestResults:
    def test_of_histories(self, shape: dict[str, int]) -> None:
        """Keys, values and state of every length are the reference's."""
        config = config_of(**shape)
        functions, reference = functions_of(config), reference_of(config)
        rng = np.random.default_rng(0)

        for n_events in range(1, config.window + 1):
            x = rng.normal(size=(n_events, config.embedding_dim)).astype(np.float32)
            keys, values, h = functions.prefill(x)

            expected = reference.prefill(x)
            np.testing.assert_allclose(keys, expected.keys, atol=2e-5)
            np.testing.assert_allclose(values, expected.values, atol=2e-5)
            np.testing.assert_allclose(h[0], expected.h, atol=2e-5)

    def test_of_steps(self, shape: dict[str, int]) -> None:
        """Against random rows, with the biases of a ring that fills and of a full one."""
        config = config_of(**shape)
        functions, reference = functions_of(config), reference_of(config)
        ring = RingBias(stack_relative_bias(frozen_of(config).dense, config.n_blocks))
        rng = np.random.default_rng(0)
        cache = (config.n_blocks, config.window - 1, config.embedding_dim)
        bias = np.empty((config.n_blocks, config.n_heads, config.window), np.float32)

        for is_full in (False, True):
            for slot in range(1, max(2, config.window)):
                ring.write(bias, slot, is_full=is_full)
                x = rng.normal(size=(1, config.embedding_dim)).astype(np.float32)
                keys, values = rng.normal(size=(2, *cache)).astype(np.float32)

                h = functions.step(x, keys, values, bias)

                expected = reference.step(x[0], keys, values, bias)
                np.testing.assert_allclose(h[0], expected.h, atol=2e-5)

    @pytest.mark.parametrize("n_candidates", [1, 7])
    def test_of_scoring(self, shape: dict[str, int], n_candidates: int) -> None:
        """Scores are inner products."""
        config = config_of(**shape)
        rng = np.random.default_rng(0)
        h = rng.normal(size=(1, config.embedding_dim)).astype(np.float32)
        candidates = rng.normal(size=(n_candidates, config.embedding_dim)).astype(np.float32)

        scores = functions_of(config).score(h, candidates)

        np.testing.assert_allclose(scores, h @ candidates.T, rtol=1e-5, atol=1e-6)
