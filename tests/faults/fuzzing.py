# SPDX-License-Identifier: Apache-2.0
"""Messages that no device and no admin of ours would send, for every call there is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from pocketrec_proto.v1 import admin_service_pb2, device_service_pb2

__all__ = ["ADMIN", "DEVICE", "Method", "messages_of", "methods_of"]

_BYTES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\x00" * 32, b"\xff" * 32, b"\x00" * 56, b"\xff" * 64]),
    st.sampled_from([5_000, 70_000]).map(b"x".__mul__),  # repeated late: reprs stay short
)
_NUMBERS: dict[int, st.SearchStrategy[Any]] = {}
for _bits in (32, 64):
    _edges = st.sampled_from([0, 1, 2, 2 ** (_bits - 1) - 1, 2 ** (_bits - 1), 2**_bits - 1])
    _NUMBERS[_bits] = st.one_of(_edges, st.integers(0, 2**_bits - 1), st.integers(0, 20))
_TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            *("", "\x00", "demo", "a\x00b", "../../etc/passwd", "é" * 64),
            *(
                "timestamp.json",
                "1.root.json",
                "root.json",
                "demo/manifest.pb",
                "parts/" + "0" * 64,
            ),
            *("uniform-4", "greedy", "personal", "os = Android", "ram >= "),
            *("' OR 1=1 --", "%s%n", "\U0001f4a5", "\ud7ff"),
        ]
    ),
    st.sampled_from([129, 70_000]).map("x".__mul__),
    st.sampled_from([500, 5_000]).map("(".__mul__),
    st.sampled_from([400, 4_000]).map("not ".__mul__),
)
_FLOATS = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 4.0, 100.0, float("nan"), float("inf"), float("-inf")]),
)
_KIND = FieldDescriptor
_VALUES: dict[int, st.SearchStrategy[Any]] = {
    _KIND.TYPE_BOOL: st.booleans(),
    _KIND.TYPE_BYTES: _BYTES,
    _KIND.TYPE_DOUBLE: _FLOATS,
    _KIND.TYPE_FLOAT: _FLOATS,
    _KIND.TYPE_STRING: _TEXTS,
    _KIND.TYPE_UINT32: _NUMBERS[32],
    _KIND.TYPE_UINT64: _NUMBERS[64],
    _KIND.TYPE_ENUM: st.one_of(st.integers(0, 9), st.sampled_from([-1, 2**31 - 1, -(2**31)])),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One call.

    Args:
        path: As gRPC names it.
        request: What it takes.
        takes_stream: Whether it takes many.
        gives_stream: Whether it answers with many.
    """

    path: str
    request: type[Message]
    takes_stream: bool
    gives_stream: bool

    @property
    def name(self) -> str:
        """The method alone."""
        return self.path.rpartition("/")[2]


def methods_of(service: str) -> tuple[Method, ...]:
    """Return every call of a service, by its short name."""
    module = admin_service_pb2 if service == "AdminService" else device_service_pb2
    described = module.DESCRIPTOR.services_by_name[service]
    return tuple(_method(described.full_name, method) for method in described.methods)


def _method(service: str, method: MethodDescriptor) -> Method:
    return Method(
        path=f"/{service}/{method.name}",
        request=GetMessageClass(method.input_type),
        takes_stream=method.client_streaming,
        gives_stream=method.server_streaming,
    )


DEVICE, ADMIN = methods_of("DeviceService"), methods_of("AdminService")


def messages_of(method: Method, samples: dict[str, Message]) -> st.SearchStrategy[bytes]:
    """Return what to send: random bytes, random fields, and good messages that were damaged.

    Args:
        method: For which call.
        samples: A message that is accepted, by the name of a call.
    """
    kinds = [st.binary(max_size=300), _structured(method.request).map(_serialised)]
    if method.name in samples:
        sample = samples[method.name]
        kinds += [_damaged(st.just(_serialised(sample))), _changed(_Sample(sample))]
    kinds.append(_damaged(kinds[1]))
    return st.one_of(kinds)


@dataclass(frozen=True, repr=False)
class _Sample:
    """A good message, whose repr is short."""

    message: Message


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


@cache
def _structured(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Return messages with any of their fields at any value."""
    fields = {field.name: _value(field) for field in kind.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


def _value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == _KIND.TYPE_MESSAGE:
        single = _structured(GetMessageClass(field.message_type))
    else:
        single = _VALUES[field.type]
    return st.lists(single, max_size=20) if field.is_repeated else single


@st.composite
def _changed(draw: st.DrawFn, sample: _Sample) -> bytes:
    """Return a good message with one field, at any depth, at another value."""
    message = type(sample.message)()
    message.CopyFrom(sample.message)
    holder = message
    while True:
        fields: tuple[FieldDescriptor, ...] = tuple(holder.DESCRIPTOR.fields)
        field = draw(st.sampled_from(fields))
        inside = None if field.is_repeated else field.message_type
        if inside is None or not inside.fields:
            break
        holder = getattr(holder, field.name)
    holder.ClearField(field.name)
    holder.MergeFrom(type(holder)(**{field.name: draw(_value(field))}))
    return message.SerializeToString()


@st.composite
def _damaged(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Return bytes that were cut, turned, repeated or made longer."""
    content = draw(contents)
    at = draw(st.integers(0, len(content)))
    match draw(st.sampled_from(["cut", "turn", "insert", "repeat"])):
        case "cut":
            return content[:at]
        case "turn" if content:
            at = min(at, len(content) - 1)
            return content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
        case "repeat":
            return content + content
    return content[:at] + draw(st.binary(max_size=16)) + content[at:]
