# SPDX-License-Identifier: Apache-2.0
"""Between the protobuf messages of ``artifacts.proto`` and this package's values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_proto.v1 import artifacts_pb2
from pocketrec_quantization.layers import LayerShape, LayerTable, check_layers
from pocketrec_quantization.levels import N_CODES, LevelTable
from pocketrec_quantization.limits import MAX_LAYERS

__all__ = [
    "check_canonical",
    "layers_from_proto",
    "layers_to_proto",
    "levels_from_proto",
    "parse_message",
    "serialize_message",
]

_Message = TypeVar("_Message", bound=Message)


def serialize_message(message: Message) -> bytes:
    """Write a message in the one encoding that :func:`check_canonical` accepts."""
    return message.SerializeToString(deterministic=True)


def parse_message(kind: type[_Message], content: bytes, *, field: str, offset: int) -> _Message:
    """Read a message.

    Args:
        kind: The message class.
        content: The whole message.
        field: What it is called in ``docs/format.md``.
        offset: Where it starts.

    Raises:
        MalformedArtifactError: ``content`` is no such message.
    """
    message = kind()
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise MalformedArtifactError(
            f"expected a protobuf {kind.DESCRIPTOR.name}", field=field, offset=offset
        ) from error
    return message


def check_canonical(message: Message, content: bytes, *, field: str, offset: int) -> None:
    """Refuse an encoding that hides or repeats something.

    Raises:
        MalformedArtifactError: ``content`` is not the one encoding of ``message``.
    """
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if serialize_message(known) != content:
        raise MalformedArtifactError(
            "expected every field once, in order, in its shortest form, and no unknown field",
            field=field,
            offset=offset,
        )


def layers_to_proto(layers: LayerTable) -> list[artifacts_pb2.Layer]:
    """Return the layers as messages, in order."""
    return [
        artifacts_pb2.Layer(
            name=layer.name, n_channels=layer.n_channels, n_elements=layer.n_elements
        )
        for layer in layers
    ]


def layers_from_proto(messages: Iterable[artifacts_pb2.Layer]) -> LayerTable:
    """Read a layer table.

    Raises:
        ConfigError: There are too many layers, a name occurs twice, or a shape is off limits.
    """
    layers: list[LayerShape] = []
    for message in messages:
        if len(layers) == MAX_LAYERS:
            raise ConfigError(f"layers: expected at most {MAX_LAYERS}")
        layers.append(LayerShape(message.name, message.n_channels, message.n_elements))
    table = tuple(layers)
    check_layers(table)
    return table


def levels_from_proto(message: artifacts_pb2.LevelTable) -> LevelTable:
    """Read a level table.

    Raises:
        ConfigError: It does not have four allowed widths.
    """
    if len(message.bits) != N_CODES:
        raise ConfigError(f"levels: expected {N_CODES} widths, got {len(message.bits)}")
    reserved, low, middle, high = message.bits
    return LevelTable((reserved, low, middle, high))
