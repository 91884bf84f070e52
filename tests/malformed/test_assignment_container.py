# SPDX-License-Identifier: Apache-2.0
"""Abuses of the assignment container; see README.md."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError
from pocketrec.signing import SigningKey
from pocketrec_proto.v1.artifacts_pb2 import BundleAssignment
from pocketrec_quantization.assignment import Assignment, decode_assignment, encode_assignment
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.limits import MAX_ASSIGNMENT_BYTES
from pocketrec_quantization.plan import decode_plan, encode_plan
from pocketrec_quantization.testing import tiny_plan

KEY = SigningKey(bytes(32))
ONE, TWO = b"\1" * 32, b"\2" * 32
ASSIGNMENT = Assignment(
    model_name="demo",
    device_id="d-1",
    bundle_digest=bytes(32),
    withdrawn=(ONE, TWO),
    version=7,
    issued_at_s=1_700_000_000,
    expires_at_s=1_700_086_400,
    key_id=KEY.public.key_id,
)
DATA = encode_assignment(ASSIGNMENT, KEY.sign)
HEADER = BundleAssignment.FromString(DATA[8:-64])


def container(
    header: BundleAssignment | bytes = HEADER,
    *,
    version: tuple[int, int] = (1, 0),
    magic: bytes = b"PKRA",
    extra: int = 0,
) -> bytes:
    """Write a container without any of the writer's checks."""
    message = header if isinstance(header, bytes) else header.SerializeToString()
    signed = struct.pack("<4sBBH", magic, *version, len(message) + extra) + message
    return signed + KEY.sign(signed)


def changed(**fields: Any) -> BundleAssignment:
    """Return the header with other values in some fields."""
    header = BundleAssignment()
    header.CopyFrom(HEADER)
    for name in fields:
        header.ClearField(name)  # type: ignore[arg-type]  # a field's name
    header.MergeFrom(BundleAssignment(**fields))
    return header


def test_the_honest_container_is_accepted() -> None:
    """What the abuses start from is an assignment."""
    assert container() == DATA
    assert decode_assignment(container()) == ASSIGNMENT


def test_truncated_anywhere() -> None:
    """No prefix of an assignment is one."""
    for length in range(len(DATA)):
        with pytest.raises(MalformedArtifactError):
            decode_assignment(DATA[:length])


@pytest.mark.parametrize("extra", [-1, 1, 64])
def test_another_length(extra: int) -> None:
    """Nothing lies between header and signature, and nothing is missing."""
    with pytest.raises(MalformedArtifactError, match="header_length at byte 6"):
        decode_assignment(container(extra=extra))


def test_too_long() -> None:
    """Its length alone refuses what no assignment can be."""
    data = container(HEADER.SerializeToString() + bytes(MAX_ASSIGNMENT_BYTES))

    with pytest.raises(MalformedArtifactError, match="assignment at byte 0"):
        decode_assignment(data)


def test_a_plan_is_none() -> None:
    """A signed plan is no assignment, and an assignment no plan."""
    plan = tiny_plan((LayerShape("a", 300, 4),), bytes(32), key_id=KEY.public.key_id)

    with pytest.raises(MalformedArtifactError, match="magic"):
        decode_assignment(encode_plan(plan, KEY.sign))
    with pytest.raises(MalformedArtifactError, match="magic"):
        decode_plan(DATA)


def test_versions() -> None:
    """A newer major version is refused, a newer minor one is read without what it adds."""
    with pytest.raises(IncompatibleArtifactError, match=r"2\.0"):
        decode_assignment(container(version=(2, 0)))

    added = HEADER.SerializeToString() + b"\x7a\x01x"
    assert decode_assignment(container(added, version=(1, 1))) == ASSIGNMENT
    with pytest.raises(MalformedArtifactError):
        decode_assignment(container(added))


@pytest.mark.parametrize(
    "header",
    [
        HEADER.SerializeToString() + HEADER.SerializeToString()[:6],  # model_name twice
        HEADER.SerializeToString().replace(b"\x28\x07", b"\x28\x87\x00"),  # padded version
        b"\xff" * 40,
    ],
)
def test_not_canonical(header: bytes) -> None:
    """A header has one encoding."""
    with pytest.raises(MalformedArtifactError, match="header at byte 8"):
        decode_assignment(container(header))


@pytest.mark.parametrize(
    "fields",
    [
        {"model_name": ""},
        {"model_name": "a/b"},
        {"device_id": ""},
        {"device_id": "d" * 65},
        {"device_id": "d\n"},
        {"bundle_digest": bytes(31)},
        {"bundle_digest": ONE},
        {"withdrawn": [bytes(33)]},
        {"withdrawn": [TWO, ONE]},
        {"withdrawn": [ONE, ONE]},
        {"withdrawn": [bytes([0, number]) + bytes(30) for number in range(1, 66)]},
        {"version": 0},
        {"version": 2**53},
        {"issued_at_s": 2**53},
        {"lifetime_s": 0},
        {"lifetime_s": 2**53},
        {"key_id": b""},
        {"key_id": bytes(9)},
    ],
    ids="-".join,
)
def test_impossible_fields(fields: dict[str, Any]) -> None:
    """A field outside its range is refused as such."""
    with pytest.raises(MalformedArtifactError, match="header at byte 8"):
        decode_assignment(container(changed(**fields)))
