# SPDX-License-Identifier: Apache-2.0
"""Writes the functions a device runs as ONNX graphs: prefill, step, score, extract.

Those of a SASRec are here, those of a Caser in ``caser_graphs``; ``graph_writer`` says what
all of them have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec_cloud.caser_graphs import write_caser_step
from pocketrec_cloud.graph_writer import GraphWriter, write_score
from pocketrec_quantization.extract_graph import onnx_gate_order
from pocketrec_quantization.graph_contract import stacked_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pocketrec_quantization.backbone import BackboneConfig
    from pocketrec_quantization.extractor import Extractor

__all__ = ["write_extract_graph", "write_graphs"]

_EPSILON = 1e-5


def write_graphs(
    dense: Mapping[str, NDArray[np.float32]], config: BackboneConfig
) -> dict[str, bytes]:
    """Write the three functions of a backbone.

    Args:
        dense: What is not coded, by name: norms and biases.
        config: The architecture.

    Returns:
        ``"prefill"``, ``"step"`` and ``"score"`` to serialised ``ModelProto``; a Caser has
        no ``"prefill"``.
    """
    functions = {"score": write_score(config.embedding_dim)}
    if config.kind == "caser":
        return {"step": write_caser_step(dense, config), **functions}
    return {
        "prefill": _Prefill(dense, config).write(),
        "step": _Step(dense, config).write(),
        **functions,
    }


def write_extract_graph(extractor: Extractor) -> bytes:
    """Write the function that turns a history into a user embedding.

    x (T, D) -> z (1, D), for any T from 1. No plan changes it, so its weights are inside.

    Args:
        extractor: For the bundle's item rows.
    """
    graph, dim = GraphWriter("extract"), extractor.embedding_dim
    x = graph.input("x", ("T", dim))
    z = graph.output("z", (1, dim))
    gates = {name: onnx_gate_order(array) for name, array in extractor.to_arrays().items()}
    biases = np.concatenate([gates["bias_ih"], gates["bias_hh"]])
    weights = [
        graph.constant("extract.weights", gates["weight_ih"][None]),
        graph.constant("extract.recurrent", gates["weight_hh"][None]),
        graph.constant("extract.biases", biases[None]),
    ]
    one = graph.constant("axis.batch", np.array([1], np.int64))
    events = graph.node("Unsqueeze", [x, one], "events")  # (T, 1, D): a batch of one
    graph.nodes("GRU", [events, *weights], ["", "last"], hidden_size=dim, linear_before_reset=1)
    zero = graph.constant("axis.direction", np.array([0], np.int64))
    graph.node("Squeeze", ["last", zero], z)
    return graph.serialise()


class _Backbone(GraphWriter):
    """What prefill and step have in common: the layers of a block."""

    def __init__(
        self, name: str, dense: Mapping[str, NDArray[np.float32]], config: BackboneConfig
    ) -> None:
        super().__init__(name)
        self._dense = dense
        self._config = config

    def dense(self, name: str) -> str:
        return self.constant(name, self._dense[name])

    def linear(self, x: str, *layers: str) -> str:
        """Multiply by the stacked matrices of ``layers`` and add their biases."""
        name = stacked_name(layers)
        n_inputs = self._config.ffn_dim if layers[0].endswith("ffn2") else self._dim
        biases = np.concatenate([self._dense[f"{layer}.bias"] for layer in layers])
        weights = self.input(name, (n_inputs, len(biases)))
        return self.node("Gemm", [x, weights, self.constant(f"{name}.bias", biases)], f"{name}/out")

    def norm(self, x: str, name: str, output: str) -> str:
        inputs = [x, self.dense(f"{name}.weight"), self.dense(f"{name}.bias")]
        return self.node("LayerNormalization", inputs, output, axis=-1, epsilon=_EPSILON)

    def rows(self, x: str, width: int, output: str) -> str:
        """(T, width) -> (1, T, width), as attention wants it."""
        shape = self.constant(f"shape.{width}", np.array([1, -1, width], np.int64))
        return self.node("Reshape", [x, shape], output)

    def split(self, x: str, outputs: Sequence[str]) -> None:
        """(1, T, n D) -> n times (1, T, D)."""
        sizes = np.full(len(outputs), self._dim, np.int64)
        split = self.constant(f"split.{len(outputs)}", sizes)
        self.nodes("Split", [x, split], outputs, axis=-1)

    def attend(self, block: int, attended: Sequence[str]) -> str:
        """Attend with (query, keys, values, bias), and mix the heads: (T, D)."""
        name, heads = f"blocks.{block}", self._config.n_heads
        mixed = self.node(
            "Attention", attended, f"{name}.mixed", q_num_heads=heads, kv_num_heads=heads
        )
        shape = self.constant("shape.flat", np.array([-1, self._dim], np.int64))
        return self.linear(self.node("Reshape", [mixed, shape], f"{name}.flat"), f"{name}.o")

    def feed_forward(self, block: int, x: str) -> str:
        """Return ``x`` after the second sublayer, (T, D)."""
        name = f"blocks.{block}"
        normed = self.norm(x, f"{name}.ffn_norm", f"{name}.ffn_in")
        wide = self.node("Relu", [self.linear(normed, f"{name}.ffn1")], f"{name}.wide")
        return self.node("Add", [x, self.linear(wide, f"{name}.ffn2")], f"{name}.out")

    def finish(self, x: str) -> None:
        self.output("h", (1, self._dim))
        self.norm(x, "final_norm", "h")

    @property
    def _dim(self) -> int:
        return self._config.embedding_dim


class _Step(_Backbone):
    """One event, against the keys and values of those before it."""

    def __init__(self, dense: Mapping[str, NDArray[np.float32]], config: BackboneConfig) -> None:
        super().__init__("step", dense, config)

    def write(self) -> bytes:
        x = self.input("x", (1, self._dim))
        for block in range(self._config.n_blocks):
            x = self._block(block, x)
        self.finish(x)
        return self.serialise()

    def _block(self, block: int, x: str) -> str:
        name, dim, window = f"blocks.{block}", self._dim, self._config.window
        keys = self.input(f"{name}.keys", (1, window - 1, dim))
        values = self.input(f"{name}.values", (1, window - 1, dim))
        bias = self.input(f"{name}.bias", (1, self._config.n_heads, 1, window))
        new_keys = self.output(f"{name}.new_keys", (1, 1, dim))
        new_values = self.output(f"{name}.new_values", (1, 1, dim))
        normed = self.norm(x, f"{name}.attn_norm", f"{name}.attn_in")
        qkv = self.linear(normed, f"{name}.q", f"{name}.k", f"{name}.v")
        query = f"{name}.query"
        self.split(self.rows(qkv, 3 * dim, f"{name}.qkv"), [query, new_keys, new_values])
        all_keys = self.node("Concat", [new_keys, keys], f"{name}.all_keys", axis=1)
        all_values = self.node("Concat", [new_values, values], f"{name}.all_values", axis=1)
        attended = self.attend(block, [query, all_keys, all_values, bias])
        return self.feed_forward(block, self.node("Add", [x, attended], f"{name}.attended"))


class _Prefill(_Backbone):
    """A whole history at once; the last block computes one query row only."""

    def __init__(self, dense: Mapping[str, NDArray[np.float32]], config: BackboneConfig) -> None:
        super().__init__("prefill", dense, config)

    def write(self) -> bytes:
        x = self.input("x", ("T", self._dim))
        for block in range(self._config.n_blocks):
            is_last = block == self._config.n_blocks - 1
            x = self._last_block(block, x) if is_last else self._block(block, x)
        self.finish(x)
        return self.serialise()

    def _block(self, block: int, x: str) -> str:
        name, dim = f"blocks.{block}", self._dim
        normed = self.norm(x, f"{name}.attn_norm", f"{name}.attn_in")
        qkv = self.linear(normed, f"{name}.q", f"{name}.k", f"{name}.v")
        query = f"{name}.query"
        keys, values = self._cached(block)
        self.split(self.rows(qkv, 3 * dim, f"{name}.qkv"), [query, keys, values])
        bias = self.input(f"{name}.bias", (1, self._config.n_heads, "T", "T"))
        attended = self.attend(block, [query, keys, values, bias])
        return self.feed_forward(block, self.node("Add", [x, attended], f"{name}.attended"))

    def _last_block(self, block: int, x: str) -> str:
        name, dim = f"blocks.{block}", self._dim
        normed = self.norm(x, f"{name}.attn_norm", f"{name}.attn_in")
        kv = self.linear(normed, f"{name}.k", f"{name}.v")
        keys, values = self._cached(block)
        self.split(self.rows(kv, 2 * dim, f"{name}.kv"), [keys, values])
        last = self.linear(self._last_row(normed, f"{name}.last_in"), f"{name}.q")
        query = self.rows(last, dim, f"{name}.query")
        bias = self.input(f"{name}.bias", (1, self._config.n_heads, 1, "T"))
        attended = self.attend(block, [query, keys, values, bias])
        x = self._last_row(x, f"{name}.last")
        return self.feed_forward(block, self.node("Add", [x, attended], f"{name}.attended"))

    def _cached(self, block: int) -> tuple[str, str]:
        shape = (1, "T", self._dim)
        name = f"blocks.{block}"
        return self.output(f"{name}.keys", shape), self.output(f"{name}.values", shape)

    def _last_row(self, x: str, output: str) -> str:
        bounds = {"last.start": -1, "last.end": np.iinfo(np.int64).max, "last.axis": 0}
        names = [self.constant(key, np.array([at], np.int64)) for key, at in bounds.items()]
        return self.node("Slice", [x, *names], output)
