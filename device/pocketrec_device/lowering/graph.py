# SPDX-License-Identifier: Apache-2.0
"""Changes and writes ONNX graphs; devices do not carry the ``onnx`` package."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pocketrec_proto.v1.onnx_subset_pb2 import (
    OnnxAttribute,
    OnnxGraph,
    OnnxModel,
    OnnxNode,
    OnnxOperatorSet,
    OnnxTensor,
    OnnxValueInfo,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message
    from numpy.typing import NDArray

__all__ = [
    "CONTRIB",
    "constant",
    "copy_of",
    "declare",
    "make_model",
    "node",
    "require_contrib",
]

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

_Message = TypeVar("_Message", bound="Message")
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE = 1, 2
_ELEMENT_TYPES = {
    np.dtype(np.float32): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
    np.dtype(np.int64): 7,
}


def copy_of(message: _Message) -> _Message:
    """Return a copy of a node, a declaration or a whole model."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def make_model(graph: OnnxGraph, opset: int) -> OnnxModel:
    """Return a model of one graph, for ONNX Runtime's own operators too."""
    # Field 1 of ModelProto is the version of the file format, which nothing else here reads.
    model = OnnxModel.FromString(b"\x08\x0a")
    model.graph.CopyFrom(graph)
    model.opset_import.append(OnnxOperatorSet(version=opset))
    require_contrib(model)
    return model


def require_contrib(model: OnnxModel) -> None:
    """Let a model use ONNX Runtime's own operators."""
    if all(entry.domain != CONTRIB for entry in model.opset_import):
        model.opset_import.append(OnnxOperatorSet(domain=CONTRIB, version=1))


def node(
    kind: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    domain: str = "",
    **attributes: float,
) -> OnnxNode:
    """Return a node; an attribute is an int or a float, by its type."""
    made = OnnxNode(
        input=inputs, output=outputs, name=f"{outputs[0]}/{kind}", op_type=kind, domain=domain
    )
    for name, value in attributes.items():
        if isinstance(value, int):
            made.attribute.append(OnnxAttribute(name=name, i=value, type=_INT_ATTRIBUTE))
        else:
            made.attribute.append(OnnxAttribute(name=name, f=value, type=_FLOAT_ATTRIBUTE))
    return made


def constant(name: str, value: NDArray[np.generic]) -> OnnxTensor:
    """Return an initializer: float32, uint8, int8 or int64."""
    return OnnxTensor(
        name=name,
        dims=value.shape,
        data_type=_ELEMENT_TYPES[value.dtype],
        raw_data=np.ascontiguousarray(value).tobytes(),
    )


def declare(name: str, shape: Sequence[int | str], dtype: type[np.generic]) -> OnnxValueInfo:
    """Return the declaration of an input or output; a text is a size that varies."""
    declared = OnnxValueInfo(name=name)
    tensor = declared.type.tensor_type
    tensor.elem_type = _ELEMENT_TYPES[np.dtype(dtype)]
    tensor.shape.SetInParent()
    for size in shape:
        if isinstance(size, str):
            tensor.shape.dim.add(dim_param=size)
        else:
            tensor.shape.dim.add(dim_value=size)
    return declared
