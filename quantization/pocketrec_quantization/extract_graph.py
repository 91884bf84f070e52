# SPDX-License-Identifier: Apache-2.0
"""Reads an extractor's weights out of its graph, so that no second copy has to travel.

The graph ``extract`` holds one ``GRU`` operator with its weights as initializers; what
else such an operator could do is refused. ``docs/format.md`` §7.4.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import MalformedArtifactError
from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel, OnnxNode, OnnxTensor
from pocketrec_quantization.checks import reading
from pocketrec_quantization.extractor import Extractor
from pocketrec_quantization.graph_file import parse_graph

__all__ = ["onnx_gate_order", "read_extract_graph"]

_FLOAT32 = 1
_ATTRIBUTES = ("hidden_size", "linear_before_reset")


def onnx_gate_order(stacked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Swap the first two of three gates: PyTorch has r, u, n and ONNX has u, r, n.

    Args:
        stacked: (3 D, ...) float32.
    """
    reset, update, new = np.split(stacked, 3)
    return np.concatenate([update, reset, new])


def read_extract_graph(data: bytes, part: str) -> Extractor:
    """Return the extractor that a graph computes.

    Args:
        data: The content of the part.
        part: Its name, for messages.

    Raises:
        MalformedArtifactError: The bytes are no ONNX file, or its weights do not fit.
        IncompatibleArtifactError: The graph keeps another contract than this release.
    """
    model = parse_graph(data, part)
    node = _only_gru(model, part)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights, recurrent, biases = (_array(tensors.get(name), name, part) for name in node.input[1:4])
    if [weights.ndim, recurrent.ndim, biases.ndim] != [3, 3, 2] or biases.shape[1] % 2:
        raise MalformedArtifactError("expected the weights of a GRU", field=part)
    bias_ih, bias_hh = np.split(biases[0], 2)
    arrays = {
        "weight_ih": weights[0],
        "weight_hh": recurrent[0],
        "bias_ih": bias_ih,
        "bias_hh": bias_hh,
    }
    if any(len(array) % 3 for array in arrays.values()):
        raise MalformedArtifactError("expected the weights of three gates", field=part)
    with reading(part):
        return Extractor.from_arrays({name: onnx_gate_order(a) for name, a in arrays.items()})


def _only_gru(model: OnnxModel, part: str) -> OnnxNode:
    """Return the one GRU of a graph, if it computes what ``Extractor`` does."""
    nodes = [node for node in model.graph.node if node.op_type == "GRU" and not node.domain]
    if len(nodes) != 1 or len(nodes[0].input) < 4:
        raise MalformedArtifactError(
            f"expected one GRU with weights and biases, found {len(nodes)}", field=part
        )
    attributes = {attribute.name: attribute.i for attribute in nodes[0].attribute}
    if sorted(attributes) != sorted(_ATTRIBUTES) or attributes["linear_before_reset"] != 1:
        raise MalformedArtifactError(
            f"expected a GRU with the attributes {_ATTRIBUTES} and a linear layer before reset",
            field=part,
        )
    return nodes[0]


def _array(tensor: OnnxTensor | None, name: str, part: str) -> NDArray[np.float32]:
    """Return an initializer's values, with one direction in front."""
    shape = () if tensor is None else tuple(tensor.dims)
    is_whole = tensor is not None and tensor.data_type == _FLOAT32 and not tensor.data_location
    if tensor is None or not is_whole or not shape or min(shape) < 1 or shape[0] != 1:
        raise MalformedArtifactError(
            f"expected float32 weights of one direction in {name!r:.80}", field=part
        )
    if len(tensor.raw_data) != 4 * math.prod(shape):
        raise MalformedArtifactError(
            f"{name!r:.80}: expected {shape} float32, got {len(tensor.raw_data)} bytes", field=part
        )
    return np.frombuffer(tensor.raw_data, "<f4").astype(np.float32, copy=False).reshape(shape)
