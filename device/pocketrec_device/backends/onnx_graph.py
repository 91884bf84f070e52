# SPDX-License-Identifier: Apache-2.0
"""Reads from an ONNX file which initializers it expects from outside.

ONNX Runtime refuses a value for an initializer the graph lacks, and looks for a *file*
where a value is missing; so both lists must agree before a session is made. Devices do
not carry the ``onnx`` package: this walks the few protobuf fields that matter.

Source: onnx.proto3 of ONNX 1.x: ModelProto.graph = 7, GraphProto.initializer = 5,
TensorProto.name = 8, TensorProto.data_location = 14 (EXTERNAL = 1).
"""

from __future__ import annotations

from collections.abc import Iterator

from pocketrec.errors import MalformedArtifactError

__all__ = ["external_initializers"]

_GRAPH, _INITIALIZER, _NAME, _DATA_LOCATION = 7, 5, 8, 14
_EXTERNAL = 1
_FIXED64 = 1


def external_initializers(model: bytes) -> tuple[str, ...]:
    """Return the names of the initializers whose values are not in the file.

    Args:
        model: The content of an ``.onnx`` file.

    Raises:
        MalformedArtifactError: The bytes are no protobuf message.
    """
    names = []
    for graph in _messages(memoryview(model), _GRAPH):
        for tensor in _messages(graph, _INITIALIZER):
            fields = dict(_fields(tensor))
            if fields.get(_DATA_LOCATION) == _EXTERNAL:
                names.append(_text(fields.get(_NAME)))
    return tuple(names)


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield each field's number and value; lengths are checked before slicing."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value: int | memoryview
        match key & 7:
            case 0:
                value, position = _varint(message, position)
            case 2:
                length, position = _varint(message, position)
                value, position = message[position : position + length], position + length
            case (1 | 5) as kind:
                length = 8 if kind == _FIXED64 else 4
                value, position = message[position : position + length], position + length
            case kind:
                raise MalformedArtifactError(f"unknown wire type {kind}", field="graph")
        if position > len(message):
            raise MalformedArtifactError("a field runs past the end", field="graph")
        yield key >> 3, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for n_read, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * n_read)
        if byte < 0x80:
            return value, position + n_read + 1
    raise MalformedArtifactError("a number does not end", field="graph")


def _text(value: int | memoryview | None) -> str:
    if not isinstance(value, memoryview):
        raise MalformedArtifactError("an initializer has no name", field="graph")
    return bytes(value).decode(errors="replace")
