# SPDX-License-Identifier: Apache-2.0
"""The three functions as ONNX graphs written by hand: what the exporter must amount to."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pocketrec_quantization.bundle import BackboneConfig
from pocketrec_quantization.frozen import FrozenModel

__all__ = ["prefill_graph", "score_graph", "step_graph"]

MASK = np.float32(-1e9)


class Graph:
    """An ONNX graph under construction; values are known by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type = np.int64) -> str:
        """Add a constant."""
        return self.dense(f"c{len(self.initializers)}", np.asarray(value, dtype))

    def dense(self, name: str, array: NDArray[np.generic]) -> str:
        """Add a tensor that lies inside the file, once."""
        if all(tensor.name != name for tensor in self.initializers):
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def coded(self, name: str, shape: tuple[int, int]) -> str:
        """Add a matrix that the runtime supplies."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="adapted")
        self.initializers.append(tensor)
        return name

    def to_bytes(
        self, inputs: dict[str, tuple[int, list[int | str]]], outputs: dict[str, str]
    ) -> bytes:
        """Return the model; ``outputs`` says which value each output is."""
        for name, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", 21)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


class Network(Graph):
    """The backbone's blocks; ``dense`` tensors inside, coded matrices outside."""

    def __init__(self, frozen: FrozenModel, config: BackboneConfig) -> None:
        super().__init__()
        self.frozen, self.config = frozen, config
        self.keys: list[str] = []
        self.values: list[str] = []

    def linear(self, name: str, x: str) -> str:
        """(T, N) -> (T, C)."""
        matrix = self.frozen.matrices[name]
        weight = self.coded(f"{name}.weight", (matrix.n_channels, matrix.n_elements))
        bias = self.dense(f"{name}.bias", self.frozen.dense[f"{name}.bias"])
        return self.op("Gemm", x, weight, bias, transB=1)

    def norm(self, name: str, x: str) -> str:
        """Layer normalisation."""
        parts = [self.dense(n, self.frozen.dense[n]) for n in (f"{name}.weight", f"{name}.bias")]
        return self.op("LayerNormalization", x, *parts, epsilon=1e-5)

    def heads(self, x: str) -> str:
        """(T, D) -> (H, T, dh)."""
        head_dim = self.config.embedding_dim // self.config.n_heads
        split = self.op("Reshape", x, self.constant([-1, self.config.n_heads, head_dim]))
        return self.op("Transpose", split, perm=[1, 0, 2])

    def block(self, i: int, x: str, distance: str, ring: tuple[str, str] | None = None) -> str:
        """One block; ``distance`` (T, S), masked outside 0..L-1; ``ring`` precedes x in S."""
        name, window = f"blocks.{i}", self.config.window
        a = self.norm(f"{name}.attn_norm", x)
        query, key, value = (self.heads(self.linear(f"{name}.{part}", a)) for part in "qkv")
        self.keys.append(key)
        self.values.append(value)
        if ring is not None:
            key = self.op("Concat", ring[0], key, axis=1)
            value = self.op("Concat", ring[1], value, axis=1)
        table = self.frozen.dense[f"{name}.relative_bias"]
        hidden = np.full((len(table), 1), MASK)
        padded = self.dense(f"{name}.bias", np.concatenate([table, hidden], axis=1))
        # Future events and masked slots both read the extra column.
        is_future = self.op("Less", distance, self.constant(0))
        column = self.op("Where", is_future, self.constant(window), distance)
        bias = self.op("Gather", padded, column, axis=1)  # (H, T, S)
        turned = self.op("Transpose", key, perm=[0, 2, 1])
        root = self.constant((self.config.embedding_dim // self.config.n_heads) ** 0.5, np.float32)
        logits = self.op("Add", self.op("Div", self.op("MatMul", query, turned), root), bias)
        mixed = self.op("MatMul", self.op("Softmax", logits, axis=-1), value)
        merged = self.op("Transpose", mixed, perm=[1, 0, 2])
        merged = self.op("Reshape", merged, self.constant([-1, self.config.embedding_dim]))
        x = self.op("Add", x, self.linear(f"{name}.o", merged))
        wide = self.op("Relu", self.linear(f"{name}.ffn1", self.norm(f"{name}.ffn_norm", x)))
        return self.op("Add", x, self.linear(f"{name}.ffn2", wide))

    def last(self, x: str) -> str:
        """(T, D) -> h (D,)."""
        row = self.op("Gather", x, self.constant(-1), axis=0)
        return self.norm("final_norm", row)

    def stack(self, arrays: list[str]) -> str:
        """Join one array per block along a new first axis."""
        zero = self.constant([0])
        return self.op("Concat", *(self.op("Unsqueeze", a, zero) for a in arrays), axis=0)


def prefill_graph(frozen: FrozenModel, config: BackboneConfig) -> bytes:
    """A whole history at once."""
    net = Network(frozen, config)
    length = net.op("Gather", net.op("Shape", "x"), net.constant(0))
    steps = net.op("Range", net.constant(0), length, net.constant(1))
    rows, columns = (net.op("Unsqueeze", steps, net.constant([axis])) for axis in (1, 0))
    distance = net.op("Sub", rows, columns)
    x = "x"
    for i in range(config.n_blocks):
        x = net.block(i, x, distance)
    outputs = {"keys": net.stack(net.keys), "values": net.stack(net.values), "h": net.last(x)}
    return net.to_bytes({"x": (TensorProto.FLOAT, ["T", config.embedding_dim])}, outputs)


def step_graph(frozen: FrozenModel, config: BackboneConfig) -> bytes:
    """One event against the ring buffers."""
    net = Network(frozen, config)
    zero = net.constant([0])
    distance = net.op("Unsqueeze", net.op("Concat", "distance", zero, axis=0), zero)
    x = net.op("Unsqueeze", "x", zero)
    for i in range(config.n_blocks):
        index = net.constant(i)
        ring = [net.op("Gather", name, index, axis=0) for name in ("keys", "values")]
        x = net.block(i, x, distance, (ring[0], ring[1]))
    one = net.constant([2])
    new = [net.op("Squeeze", net.stack(arrays), one) for arrays in (net.keys, net.values)]
    head_dim = config.embedding_dim // config.n_heads
    shape = [config.n_blocks, config.n_heads, config.window, head_dim]
    inputs = {
        "x": (TensorProto.FLOAT, [config.embedding_dim]),
        "keys": (TensorProto.FLOAT, shape),
        "values": (TensorProto.FLOAT, shape),
        "distance": (TensorProto.INT64, [config.window]),
    }
    return net.to_bytes(inputs, {"new_key": new[0], "new_value": new[1], "h": net.last(x)})


def score_graph(config: BackboneConfig) -> bytes:
    """Inner products."""
    graph = Graph()
    scores = graph.op("MatMul", "candidates", "h")
    inputs = {
        "h": (TensorProto.FLOAT, [config.embedding_dim]),
        "candidates": (TensorProto.FLOAT, ["M", config.embedding_dim]),
    }
    return graph.to_bytes(inputs, {"scores": scores})
