# SPDX-License-Identifier: Apache-2.0
"""Rewrites keep what a graph computes, and remove what they say."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_device.lowering.channels import FrozenStore
from pocketrec_device.lowering.kernels import KERNELS
from pocketrec_device.lowering.rewrites import chunk_bounds, chunk_causal_attention, share_cache
from pocketrec_quantization.attention_bias import RingBias, prefill_bias, stack_relative_bias
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.graph_file import parse_graph
from pocketrec_quantization.testing import tiny_frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel

Arrays = dict[str, NDArray[np.float32]]


def config_of(**changes: int) -> BackboneConfig:
    """Return a tiny architecture with other numbers."""
    fields = {"embedding_dim": 4, "n_blocks": 2, "n_heads": 2, "window": 5, "ffn_multiplier": 2}
    return BackboneConfig(**{"kind": "sasrec"} | fields | changes)


@cache
def frozen_of(config: BackboneConfig) -> FrozenModel:
    """Return random weights."""
    return tiny_frozen(config)


def graph_of(function: str, config: BackboneConfig) -> OnnxModel:
    """Return a graph as the device reads it."""
    return parse_graph(write_graphs(frozen_of(config).dense, config)[function], function)


def relative_of(config: BackboneConfig) -> NDArray[np.float32]:
    """Return the biases by distance."""
    return stack_relative_bias(frozen_of(config).dense, config.n_blocks)


def weights_of(model: OnnxModel, config: BackboneConfig) -> Arrays:
    """Return what a graph takes for its coded matrices, at 8 bits."""
    names = [entry.name for entry in model.graph.input if stacked_layers(entry.name)]
    frozen = frozen_of(config)
    n_channels = sum(layer.n_channels for layer in frozen.layers)
    source = FrozenStore(frozen, names).under(np.full(n_channels, 8, np.uint8))
    return {name: source.transposed(name) for name in names}


def session_of(model: OnnxModel) -> onnxruntime.InferenceSession:
    """Return a session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def outputs_of(model: OnnxModel, feeds: Mapping[str, NDArray[np.float32]]) -> Arrays:
    """Return all outputs by name."""
    names = [entry.name for entry in model.graph.output]
    return dict(zip(names, session_of(model).run(names, feeds), strict=True))


def kinds(model: OnnxModel) -> Counter[str]:
    """Count nodes by operator."""
    return Counter(each.op_type for each in model.graph.node)


class TestShareCache:
    @pytest.mark.parametrize(
        "changes", [{}, {"window": 2}, {"window": 1}, {"n_blocks": 3}], ids=str
    )
    def test_removes_the_copies_of_the_cache(self, changes: dict[str, int]) -> None:
        """Two nodes less per block, and L cached rows instead of L - 1; nothing else changes."""
        config = config_of(**changes)
        model = graph_of("step", config)
        before, outputs = kinds(model), list(model.graph.output)

        share_cache(model)

        assert before - kinds(model) == {"Concat": 2 * config.n_blocks}
        assert not kinds(model) - before
        assert list(model.graph.output) == outputs
        for entry in model.graph.input:
            if entry.name.endswith((".keys", ".values")):
                shape = [size.dim_value for size in entry.type.tensor_type.shape.dim]
                assert shape == [1, config.window, config.embedding_dim]

    @pytest.mark.parametrize(
        "changes", [{}, {"window": 2}, {"window": 1}, {"n_blocks": 3}], ids=str
    )
    def test_writes_row_0_in_place_and_leaves_the_others_alone(
        self, changes: dict[str, int]
    ) -> None:
        """Bound to one memory, the rewritten step gives what the plain one gives."""
        config = config_of(**changes)
        plain, shared = graph_of("step", config), graph_of("step", config)
        share_cache(shared)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, config.embedding_dim)).astype(np.float32)
        shape = (config.n_blocks, 2, config.window, config.embedding_dim)
        cache = rng.standard_normal(shape).astype(np.float32)
        before = cache.copy()
        bias = np.empty((config.n_blocks, config.n_heads, config.window), np.float32)
        RingBias(relative_of(config)).write(bias, 1, is_full=True)
        weights = weights_of(plain, config)
        feeds = {"x": x, **weights}
        for block in range(config.n_blocks):
            keys, values = before[block]
            feeds |= {f"blocks.{block}.keys": keys[None, 1:]}
            feeds |= {f"blocks.{block}.values": values[None, 1:]}
            feeds |= {f"blocks.{block}.bias": bias[block][None, :, None]}
        expected = outputs_of(plain, feeds)

        session = session_of(shared)
        binding, make = session.io_binding(), onnxruntime.OrtValue.ortvalue_from_numpy
        h = np.empty((1, config.embedding_dim), np.float32)
        for name in ("x", *weights, *(f"blocks.{b}.bias" for b in range(config.n_blocks))):
            binding.bind_ortvalue_input(name, make(feeds[name]))
        for block in range(config.n_blocks):
            for name, rows in zip(("keys", "values"), cache[block], strict=True):
                binding.bind_ortvalue_input(f"blocks.{block}.{name}", make(rows[None]))
                binding.bind_ortvalue_output(f"blocks.{block}.new_{name}", make(rows[None, :1]))
        binding.bind_ortvalue_output("h", make(h))

        for _ in range(2):  # the second time over its own row 0
            session.run_with_iobinding(binding)

            np.testing.assert_allclose(h, expected["h"], atol=1e-6)
            np.testing.assert_array_equal(cache[:, :, 1:], before[:, :, 1:])
            for block in range(config.n_blocks):
                for name, rows in zip(("keys", "values"), cache[block], strict=True):
                    own = expected[f"blocks.{block}.new_{name}"]
                    np.testing.assert_allclose(rows[None, :1], own, atol=1e-6)

    def test_leaves_other_graphs_alone(self) -> None:
        """A history has no cache to share."""
        model = graph_of("prefill", config_of())
        before = model.SerializeToString(deterministic=True)

        share_cache(model)

        assert model.SerializeToString(deterministic=True) == before


class TestChunks:
    @given(st.integers(1, 5000))
    def test_cover_a_history(self, n_events: int) -> None:
        """From its first event to its last, in pieces of 64 to 127 events unless it is shorter."""
        bounds = chunk_bounds(n_events)

        assert (bounds[0], bounds[-1]) == (0, n_events)
        lengths = [end - start for start, end in pairwise(bounds)]
        assert sum(lengths) == n_events
        if n_events >= 64:
            assert all(64 <= length < 128 for length in lengths)
        else:
            assert lengths == [n_events]

    @pytest.mark.parametrize("bounds", [(0, 5), (), (0,)])
    def test_a_whole_history_is_left_alone(self, bounds: Sequence[int]) -> None:
        """Where there is nothing to cut, the graph stays as it is."""
        model = graph_of("prefill", config_of())
        before = model.SerializeToString(deterministic=True)

        chunk_causal_attention(model, bounds)

        assert model.SerializeToString(deterministic=True) == before

    @pytest.mark.parametrize("bounds", [(0, 2, 5), (0, 1, 2, 3, 4, 5), (0, 4, 5)])
    @pytest.mark.parametrize("n_blocks", [1, 2, 3])
    def test_keep_the_results(self, bounds: Sequence[int], n_blocks: int) -> None:
        """However a history is cut, keys, values and state are those of the whole."""
        config = config_of(n_blocks=n_blocks)
        whole, cut = graph_of("prefill", config), graph_of("prefill", config)
        x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
        common = {"x": x, **weights_of(whole, config)}
        last = f"blocks.{n_blocks - 1}.bias"
        squares: Arrays = {
            f"blocks.{block}.bias": prefill_bias(relative, 5)[None]
            for block, relative in enumerate(relative_of(config))
        }
        squares[last] = squares[last][:, :, -1:].copy()
        pieces = {last: squares[last]} | {
            f"{name}.{number}": bias[:, :, start:end, :end].copy()
            for name, bias in squares.items()
            if name != last
            for number, (start, end) in enumerate(pairwise(bounds))
        }

        chunk_causal_attention(cut, bounds)

        found, expected = outputs_of(cut, common | pieces), outputs_of(whole, common | squares)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-6)

    def test_attend_to_what_can_be_seen_only(self) -> None:
        """Two halves of every block but the last: one more attention each, over half the keys."""
        plain, model = graph_of("prefill", config_of()), graph_of("prefill", config_of())

        chunk_causal_attention(model, (0, 2, 5))

        added = kinds(model) - kinds(plain)
        assert added == {"Attention": 1, "Split": 1, "Slice": 2, "Concat": 1}
        declared = {
            entry.name: [size.dim_value for size in entry.type.tensor_type.shape.dim][2:]
            for entry in model.graph.input
            if ".bias" in entry.name
        }
        assert declared["blocks.0.bias.0"] == [2, 2]
        assert declared["blocks.0.bias.1"] == [3, 5]
        assert declared["blocks.1.bias"] == [1, 0]
        assert "blocks.0.bias" not in declared


def test_rewrites_leave_every_product_to_be_lowered() -> None:
    """No rewrite touches a multiplication by coded weights."""
    for function, rewrite in (
        ("step", share_cache),
        ("prefill", lambda model: chunk_causal_attention(model, (0, 2, 5))),
    ):
        model = graph_of(function, config_of())
        before = [each for each in model.graph.node if each.op_type == "Gemm"]
        copies = [each.SerializeToString() for each in before]

        rewrite(model)

        after = [each for each in model.graph.node if each.op_type == "Gemm"]
        assert [each.SerializeToString() for each in after] == copies
    assert set(KERNELS) == {"fp32", "int8", "packed"}
