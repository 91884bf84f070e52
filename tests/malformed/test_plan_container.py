# SPDX-License-Identifier: Apache-2.0
"""Abuses of the plan container; see README.md."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError
from pocketrec_proto.v1.artifacts_pb2 import Architecture, Layer, LevelTable, PlanHeader
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.limits import MAX_PLAN_BYTES
from pocketrec_quantization.plan import decode_plan, encode_plan, plan_sizes, split_signature
from pocketrec_quantization.testing import tiny_plan
from pocketrec_quantization.wire import layers_to_proto

LAYERS = (LayerShape("a", 3, 4), LayerShape("b", 2, 8))
PLAN = tiny_plan(LAYERS, bytes(32), codes=np.array([1, 2, 3, 1, 2], np.uint8))
DATA = encode_plan(PLAN, None)
HEADER = PlanHeader.FromString(DATA[8:-2])
KEY_ID = bytes(range(8))


def container(
    header: PlanHeader | bytes = HEADER,
    *,
    codes: bytes = b"\x79\x02",
    version: tuple[int, int] = (2, 0),
    tail: bytes = b"",
) -> bytes:
    """Write a container without any of the writer's checks."""
    message = header if isinstance(header, bytes) else header.SerializeToString()
    return struct.pack("<4sBBH", b"PKRP", *version, len(message)) + message + codes + tail


def changed(**fields: Any) -> PlanHeader:
    """Return the header with other values in some fields."""
    header = PlanHeader()
    header.CopyFrom(HEADER)
    for name in fields:
        header.ClearField(name)  # type: ignore[arg-type]  # a field's name
    header.MergeFrom(PlanHeader(**fields))
    return header


def test_the_honest_container_is_accepted() -> None:
    """What the abuses start from is a plan."""
    assert container() == DATA
    assert decode_plan(container()) == PLAN


@pytest.mark.parametrize("key_id", [b"", KEY_ID])
@pytest.mark.parametrize("read", [decode_plan, plan_sizes, split_signature])
def test_truncated_anywhere(read: Callable[[bytes], object], key_id: bytes) -> None:
    """No prefix of a plan is a plan."""
    data = container(changed(key_id=key_id), tail=bytes(64) if key_id else b"")
    read(data)

    for length in range(len(data)):
        with pytest.raises(MalformedArtifactError):
            read(data[:length])


@pytest.mark.parametrize("read", [decode_plan, plan_sizes, split_signature])
def test_trailing_bytes(read: Callable[[bytes], object]) -> None:
    """Nothing may follow, and the offset says where it starts."""
    with pytest.raises(MalformedArtifactError, match="plan at byte") as caught:
        read(DATA + b"\0")

    assert caught.value.offset == len(DATA)


@pytest.mark.parametrize("position", range(4))
def test_another_magic(position: int) -> None:
    """A file that does not start with PKRP is no plan."""
    data = bytearray(DATA)
    data[position] ^= 0x20

    with pytest.raises(MalformedArtifactError, match="magic at byte 0"):
        decode_plan(bytes(data))


@pytest.mark.parametrize("major", [0, 1, 255])
def test_unknown_major_version(major: int) -> None:
    """Both version numbers are named, and nothing behind them is read."""
    with pytest.raises(IncompatibleArtifactError, match=rf"version {major}\.7, .* reads 2\.x"):
        decode_plan(container(b"", version=(major, 7)))


def test_unknown_minor_version_is_readable() -> None:
    """A newer minor version may add fields to the header."""
    future = HEADER.SerializeToString() + b"\xf2\x07\x03new"  # field 126

    assert decode_plan(container(future, version=(2, 9))) == PLAN
    with pytest.raises(MalformedArtifactError, match="no unknown field"):
        decode_plan(container(future))


def test_header_length_beyond_the_file() -> None:
    """A declared length is compared with what is there first."""
    data = bytearray(DATA)
    data[6:8] = b"\xff\xff"

    with pytest.raises(MalformedArtifactError, match="header_length at byte 6: 65535 bytes"):
        decode_plan(bytes(data))


def test_larger_than_any_plan() -> None:
    """A file beyond the limit is refused by its length alone."""
    with pytest.raises(MalformedArtifactError, match="got 524289"):
        decode_plan(DATA.ljust(MAX_PLAN_BYTES + 1, b"\0"))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\xff" * 9, id="no protobuf"),
        pytest.param(b"\x0a\xff", id="length beyond the message"),
        pytest.param(b"\x0b" * 2000, id="groups nested without end"),
        pytest.param(changed().SerializeToString() + b"\x5a\x00", id="explicit default"),
        pytest.param(b"\x40\x01" + HEADER.SerializeToString(), id="fields out of order"),
        pytest.param(HEADER.SerializeToString() + b"\x48\x05", id="field twice"),
        pytest.param(HEADER.SerializeToString() + b"\x50\x81\x00", id="padded integer"),
        pytest.param(HEADER.SerializeToString() + b"\x22\x00", id="layer without fields"),
        pytest.param(
            changed(levels=LevelTable(bits=[0, 2, 4, 4]))
            .SerializeToString()
            .replace(b"\x12\x06\x0a\x04\0\2\4\4", b"\x12\x08\x08\0\x08\2\x08\4\x08\4"),
            id="unpacked list",
        ),
    ],
)
def test_header_that_is_no_header(header: bytes) -> None:
    """Each header has one encoding, and everything else is refused."""
    with pytest.raises(MalformedArtifactError, match="header at byte 8"):
        decode_plan(container(header))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"issued_at_s": 0, "lifetime_s": 2**64 - 1}, "expires_at_s: expected 0"),
        ({"layers": []}, "layers: expected 1..1024 layers, got 0"),
        ({"layers": [Layer(name="a", n_channels=2**32 - 1, n_elements=1)]}, "n_channels"),
        ({"layers": [Layer(name="a", n_channels=1, n_elements=2**32 - 1)]}, "n_elements"),
        ({"layers": [Layer(name="a", n_channels=0, n_elements=1)]}, "n_channels"),
        ({"layers": [Layer(name="a", n_channels=5, n_elements=1)] * 2}, "'a' is named twice"),
        ({"layers": [Layer(name="", n_channels=5, n_elements=1)]}, "layer.name"),
        ({"layers": [Layer(name="é", n_channels=5, n_elements=1)]}, "layer.name"),
        ({"layers": [Layer(name="a", n_channels=1, n_elements=1)] * 1025}, "at most 1024"),
        (
            {"layers": [Layer(name=f"{i}", n_channels=2**16, n_elements=1) for i in range(17)]},
            "at most 1048576 channels",
        ),
        ({"levels": LevelTable(bits=[0, 2, 4])}, "levels: expected 4 widths, got 3"),
        ({"levels": LevelTable(bits=[0, 2, 4, 8, 8])}, "levels: expected 4 widths, got 5"),
        ({"levels": LevelTable(bits=[0, 2, 3, 8])}, "levels"),
        ({"levels": LevelTable(bits=[2, 2, 4, 8])}, "levels"),
        ({"levels": LevelTable(bits=[0, 8, 4, 2])}, "levels"),
        ({"levels": LevelTable(bits=[0, 2, 4, 2**32 - 1])}, "levels"),
        ({"levels": LevelTable(bits=[0, 2, 4, 8])}, "levels: expected none in place of"),
        ({"levels": LevelTable()}, "levels: expected 4 widths, got 0"),
        ({"model_id": bytes(15)}, "model_id: expected 16 bytes"),
        ({"model_id": bytes(32)}, "model_id: expected 16 bytes"),
        ({"model_id": b""}, "model_id: expected 16 bytes"),
        ({"version": 2**53}, "version: expected 0"),
        ({"budget_bytes": 2**64 - 1}, "budget_bytes: expected 0"),
        ({"issued_at_s": 2**53 - 1, "lifetime_s": 1}, "expires_at_s: expected 0"),
        ({"subject": "x" * 129}, "subject: expected at most 128"),
        ({"subject": "a\0b"}, "subject"),
        ({"subject": "a\u2028b"}, "subject"),
        ({"planner": ""}, "planner"),
        ({"planner": "../global"}, "planner"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], complaint: str) -> None:
    """A header that parses may still say nonsense; the field is named."""
    with pytest.raises(MalformedArtifactError, match=complaint) as caught:
        decode_plan(container(changed(**fields)))

    assert (caught.value.field, caught.value.offset) == ("header", 8)


def architecture(*sizes: int, kind: int = 1) -> PlanHeader:
    """Return a header whose layers follow from an architecture."""
    told = Architecture(sizes=sizes)
    told.kind = kind  # type: ignore[assignment]  # any number can be on the wire
    return changed(layers=[], architecture=told)


def test_an_honest_architecture_is_accepted() -> None:
    """What the abuses below start from is a plan of 1 x 6 channels."""
    plan = decode_plan(container(architecture(1, 1, 1), codes=b"\x55\x05"))

    assert [layer.n_channels for layer in plan.layers] == [1] * 6


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (architecture(), "expected embedding_dim, n_blocks and ffn_multiplier, got 0 sizes"),
        (architecture(1, 1), "got 2 sizes"),
        (architecture(1, 1, 1, 1), "got 4 sizes"),
        (architecture(*[1] * 20_000), "got 20000 sizes"),
        (architecture(1, 171, 1), "n_blocks: expected 1..170, got 171"),
        (architecture(1, 2**32 - 1, 1), "n_blocks"),
        (architecture(1, 0, 1), "n_blocks"),
        (architecture(0, 1, 1), "embedding_dim"),
        (architecture(2**32 - 1, 1, 2**32 - 1), "embedding_dim"),
        (architecture(2, 1, 0), "ffn_multiplier"),
        (architecture(2**16, 1, 2), "n_channels: expected 1..65536, got 131072"),
        (architecture(2**16, 3, 1), "at most 1048576 channels"),
    ],
)
def test_architectures_out_of_range(header: PlanHeader, complaint: str) -> None:
    """A few small numbers cannot ask for more layers than a table may have."""
    with pytest.raises(MalformedArtifactError, match=complaint) as caught:
        plan_sizes(container(header))

    assert (caught.value.field, caught.value.offset) == ("header", 8)


@pytest.mark.parametrize("read", [decode_plan, plan_sizes, split_signature])
def test_layers_told_the_long_way(read: Callable[[bytes], object]) -> None:
    """A table that an architecture gives has no second encoding."""
    layers = decode_plan(container(architecture(1, 1, 1), codes=b"\x55\x05")).layers
    spelled_out = changed(layers=layers_to_proto(layers))

    with pytest.raises(MalformedArtifactError, match="expected the architecture that gives them"):
        read(container(spelled_out, codes=b"\x55\x05"))


def test_layers_told_twice() -> None:
    """An architecture and a table in one header contradict each other, or repeat."""
    both = architecture(1, 1, 1)
    both.layers.extend(HEADER.layers)

    with pytest.raises(MalformedArtifactError, match="an architecture or layers, got both"):
        decode_plan(container(both, codes=b"\x55\x05"))


@pytest.mark.parametrize("kind", [0, 99, -1])
def test_unknown_architecture(kind: int) -> None:
    """Layers of a kind that this release cannot derive take a newer one."""
    with pytest.raises(IncompatibleArtifactError, match=f"architecture of kind {kind}, "):
        decode_plan(container(architecture(1, 1, 1, kind=kind)))


def test_text_that_is_not_utf_8() -> None:
    """Broken text in the subject is refused as a broken message."""
    header = changed(subject="abc").SerializeToString().replace(b"abc", b"a\xffc")

    with pytest.raises(MalformedArtifactError, match="header at byte 8"):
        decode_plan(container(header))


@pytest.mark.parametrize("key_id", [bytes(7), bytes(9), bytes(16), b"\1"])
def test_key_id_of_another_length(key_id: bytes) -> None:
    """A key id has 8 bytes, or there is none."""
    with pytest.raises(MalformedArtifactError, match="key_id: expected 8 bytes"):
        decode_plan(container(changed(key_id=key_id), tail=bytes(64)))


@pytest.mark.parametrize(("key_id", "n_bytes"), [(KEY_ID, 0), (KEY_ID, 63), (b"", 64)])
def test_signature_that_the_header_does_not_announce(key_id: bytes, n_bytes: int) -> None:
    """Whether a signature follows is for the header to say, and it has 64 bytes."""
    with pytest.raises(MalformedArtifactError, match="signature after the header"):
        split_signature(container(changed(key_id=key_id), tail=bytes(n_bytes)))


def test_reserved_code() -> None:
    """Code 0 is refused, and the channel named."""
    with pytest.raises(MalformedArtifactError, match="got 0 for channel 3") as caught:
        decode_plan(container(codes=b"\x39\x02"))

    assert (caught.value.field, caught.value.offset) == ("codes", len(DATA) - 2)


@pytest.mark.parametrize("last", [0x06, 0x12, 0x42, 0x82])
def test_bits_after_the_last_code(last: int) -> None:
    """Padding bits carry nothing, so they must be zero."""
    with pytest.raises(MalformedArtifactError, match="after code 5 must be zero") as caught:
        decode_plan(container(codes=bytes([0x79, last])))

    assert caught.value.offset == len(DATA) - 1
