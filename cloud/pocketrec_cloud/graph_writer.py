# SPDX-License-Identifier: Apache-2.0
"""Writes ONNX graphs node by node, and declares the contract they keep.

Written rather than traced: what a node costs is most of what a step costs, and this way
there are few. Only standard operators of opset 23 are used. The coded matrices are graph
*inputs*, stacked and transposed as the graph multiplies them (``docs/format.md`` §7.4), so
one graph serves every plan; a runtime may turn them into constants, or into other kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pocketrec_quantization.graph_contract import GRAPH_CONTRACT, GRAPH_CONTRACT_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["GraphWriter", "write_score"]

OPSET = 23  # the first with Attention
IR_VERSION = 11


class GraphWriter:
    """A graph that grows node by node; values are referred to by name.

    Args:
        name: Of the function.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declare a float32 input; a text is a size that varies. Returns its name."""
        self._inputs[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> str:
        """Declare a float32 output. Returns its name."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a constant. Returns its name."""
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of one output. Returns the output's name."""
        self.nodes(kind, inputs, [output], **attributes)
        return output

    def nodes(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node of several outputs; the first may be left empty."""
        name = f"{outputs[0] or outputs[-1]}/{kind}"
        self._nodes.append(helper.make_node(kind, inputs, outputs, name, **attributes))

    def serialise(self) -> bytes:
        """Return the graph as a checked ``ModelProto``."""
        graph = helper.make_graph(
            self._nodes,
            self._name,
            list(self._inputs.values()),
            self._outputs,
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = "pocketrec"
        helper.set_model_props(model, {GRAPH_CONTRACT_KEY: GRAPH_CONTRACT})
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def write_score(embedding_dim: int) -> bytes:
    """Write inner products with the user's state: h (1, D), candidates (M, D) -> (1, M).

    Args:
        embedding_dim: D.
    """
    graph = GraphWriter("score")
    h = graph.input("h", (1, embedding_dim))
    candidates = graph.input("candidates", ("M", embedding_dim))
    scores = graph.output("scores", (1, "M"))
    graph.node("Gemm", [h, candidates], scores, transB=1)
    return graph.serialise()
