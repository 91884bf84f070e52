# SPDX-License-Identifier: Apache-2.0
"""The outer form of a plan: prelude, header, codes and signature, and where each ends.

Everything here is arithmetic on lengths, in the order of the bytes, plus parsing the
header as protobuf: nothing is allocated that the input does not contain, and nothing is
said about whether the values make sense. ``docs/format.md`` §1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_proto.v1.artifacts_pb2 import PlanHeader
from pocketrec_quantization.bitpack import packed_size
from pocketrec_quantization.checks import check_major, reading
from pocketrec_quantization.layers import LayerTable, total_channels
from pocketrec_quantization.limits import MAX_PLAN_BYTES
from pocketrec_quantization.plan_layers import read_layers
from pocketrec_quantization.wire import check_canonical, parse_message, serialize_message

__all__ = [
    "PLAN_MAGIC",
    "PLAN_VERSION",
    "PRELUDE_BYTES",
    "SIGNATURE_BYTES",
    "PlanContainer",
    "PlanSizes",
    "open_container",
    "plan_sizes",
    "plan_version",
    "split_signature",
    "write_container",
    "write_message",
]

PLAN_MAGIC = b"PKRP"
"""The first four bytes of a plan."""

PLAN_VERSION = (2, 0)
"""Major and minor version of the containers this release writes."""

SIGNATURE_BYTES = 64
"""Ed25519."""

_PRELUDE = struct.Struct("<4sBBH")  # magic, major, minor, header length
PRELUDE_BYTES = _PRELUDE.size
_MAX_HEADER_BYTES = 2**16 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSizes:
    """What a container weighs; the payload is what CHORD counts as the strategy.

    Attributes:
        header_bytes: Prelude and header.
        payload_bytes: The packed codes.
        signature_bytes: 64, or 0 when unsigned.
    """

    header_bytes: int
    payload_bytes: int
    signature_bytes: int

    @property
    def total_bytes(self) -> int:
        """The length of the container."""
        return self.header_bytes + self.payload_bytes + self.signature_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContainer:
    """A container whose lengths add up; its values are not checked yet.

    Attributes:
        header: The message.
        layers: The layer table of the header, which says how many codes there are.
        codes: The packed codes.
        sizes: Where each part ends.
    """

    header: PlanHeader
    layers: LayerTable
    codes: bytes
    sizes: PlanSizes


def write_container(
    header: PlanHeader, codes: bytes, signer: Callable[[bytes], bytes] | None
) -> bytes:
    """Put a container together.

    Args:
        header: The message; its ``key_id`` says whose signature to expect.
        codes: The packed codes.
        signer: Signs all bytes before the signature; None iff there is no ``key_id``.

    Raises:
        ConfigError: Only one of signer and key id is given, the signature does not have
            64 bytes, or the header does not fit its 16-bit length.
    """
    if (signer is None) != (not header.key_id):
        raise ConfigError("expected a signer for a plan with a key_id, and none for one without")
    signed = write_message(header, codes)
    if signer is None:
        return signed
    signature = signer(signed)
    if len(signature) != SIGNATURE_BYTES:
        raise ConfigError(f"signer: expected {SIGNATURE_BYTES} bytes, got {len(signature)}")
    return signed + signature


def write_message(header: PlanHeader, codes: bytes) -> bytes:
    """Put together what a signature covers: all of a container that precedes it.

    Args:
        header: The message.
        codes: The packed codes.

    Raises:
        ConfigError: The header does not fit its 16-bit length.
    """
    message = serialize_message(header)
    if len(message) > _MAX_HEADER_BYTES:
        raise ConfigError(
            f"header: expected at most {_MAX_HEADER_BYTES} bytes, got {len(message)}; shorten "
            "the layer names"
        )
    return _PRELUDE.pack(PLAN_MAGIC, *PLAN_VERSION, len(message)) + message + codes


def open_container(data: bytes) -> PlanContainer:
    """Take a container apart.

    Raises:
        MalformedArtifactError: The lengths do not add up, or the header is malformed.
        IncompatibleArtifactError: The format's major version or the architecture is unknown.
    """
    header, start = _read_header(data)
    with reading("header", PRELUDE_BYTES):
        layers = read_layers(header)
    sizes = PlanSizes(
        header_bytes=start,
        payload_bytes=packed_size(total_channels(layers)),
        signature_bytes=SIGNATURE_BYTES if header.key_id else 0,
    )
    if len(data) != sizes.total_bytes:
        raise MalformedArtifactError(
            f"expected {sizes.payload_bytes} bytes of codes and {sizes.signature_bytes} of "
            f"signature after the header, got {len(data) - start} in all",
            field="plan",
            offset=min(len(data), sizes.total_bytes),
        )
    codes = data[start : start + sizes.payload_bytes]
    return PlanContainer(header=header, layers=layers, codes=codes, sizes=sizes)


def plan_sizes(data: bytes) -> PlanSizes:
    """Measure the parts of a container.

    Raises:
        MalformedArtifactError: The bytes are no plan container.
        IncompatibleArtifactError: The format's major version or the architecture is unknown.
    """
    return open_container(data).sizes


def plan_version(data: bytes) -> int:
    """Return the version that a container's header names; nothing behind the header is read.

    Raises:
        MalformedArtifactError: The bytes do not start like a plan container.
        IncompatibleArtifactError: The format's major version is unknown.
    """
    header, _ = _read_header(data)
    version: int = header.version
    return version


def split_signature(data: bytes) -> tuple[bytes, bytes | None]:
    """Part a container into what is signed and the signature over it.

    Returns:
        The signed bytes, and 64 bytes of signature or None when the plan is unsigned.

    Raises:
        MalformedArtifactError: The bytes are no plan container.
        IncompatibleArtifactError: The format's major version or the architecture is unknown.
    """
    sizes = plan_sizes(data)
    end = sizes.total_bytes - sizes.signature_bytes
    return data[:end], data[end:] or None


def _read_header(data: bytes) -> tuple[PlanHeader, int]:
    """Return the header and the offset of the codes."""
    if not PRELUDE_BYTES <= len(data) <= MAX_PLAN_BYTES:
        raise MalformedArtifactError(
            f"expected {PRELUDE_BYTES}..{MAX_PLAN_BYTES} bytes, got {len(data)}",
            field="plan",
            offset=0,
        )
    magic, major, minor, length = _PRELUDE.unpack_from(data)
    if magic != PLAN_MAGIC:
        raise MalformedArtifactError(
            f"expected {PLAN_MAGIC!r}, got {magic!r}", field="magic", offset=0
        )
    check_major((major, minor), PLAN_VERSION, what="the plan")
    end = PRELUDE_BYTES + length
    if end > len(data):
        raise MalformedArtifactError(
            f"{length} bytes are declared, {len(data) - PRELUDE_BYTES} follow",
            field="header_length",
            offset=6,
        )
    content = data[PRELUDE_BYTES:end]
    header = parse_message(PlanHeader, content, field="header", offset=PRELUDE_BYTES)
    if minor <= PLAN_VERSION[1]:
        check_canonical(header, content, field="header", offset=PRELUDE_BYTES)
    return header, end
