# SPDX-License-Identifier: Apache-2.0
"""One user's strategy: a 2-bit code for every channel of a frozen model.

A plan travels as a container: an 8-byte prelude, a protobuf header, the packed codes
and, iff the header names a key, an Ed25519 signature over everything before it. This
module parses and writes containers; who may sign, and which version or expiry is
acceptable, is for the device to decide. ``docs/format.md`` §1.

Source: CHORD for 2 bits per channel on the wire; the container is our choice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    MalformedArtifactError,
)
from pocketrec_proto.v1.artifacts_pb2 import LevelTable as LevelTableMessage
from pocketrec_proto.v1.artifacts_pb2 import PlanHeader
from pocketrec_quantization.bitpack import pack_codes, packed_size, unpack_codes
from pocketrec_quantization.checks import (
    check_integer,
    check_major,
    check_name,
    check_text,
    read_only,
    reading,
)
from pocketrec_quantization.layers import LayerTable, check_layers, total_channels
from pocketrec_quantization.levels import LevelTable, check_codes
from pocketrec_quantization.limits import MAX_PLAN_BYTES, MAX_SUBJECT_LENGTH
from pocketrec_quantization.wire import (
    check_canonical,
    layers_from_proto,
    layers_to_proto,
    levels_from_proto,
    parse_message,
    serialize_message,
)

__all__ = [
    "DIGEST_BYTES",
    "KEY_ID_BYTES",
    "PLAN_MAGIC",
    "PLAN_VERSION",
    "SIGNATURE_BYTES",
    "Plan",
    "PlanSizes",
    "check_applies",
    "decode_plan",
    "encode_plan",
    "plan_sizes",
    "split_signature",
]

PLAN_MAGIC = b"PKRP"
PLAN_VERSION = (1, 0)
"""Major and minor version of the containers this release writes."""

DIGEST_BYTES = 32
KEY_ID_BYTES = 16
SIGNATURE_BYTES = 64

_PRELUDE = struct.Struct("<4sBBH")  # magic, major, minor, header length
_MAX_HEADER_BYTES = 2**16 - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """One strategy, bound to one frozen model.

    Args:
        model_digest: 32 bytes, SHA-256 of the frozen part.
        levels: What the codes mean in bits.
        layers: The model's coded matrices.
        codes: (C_total,) uint8, each 1..3, in the order of ``layers``.
        budget_bytes: What the planner had to stay within, scales included.
        subject: Pseudonym of whom the plan is for; empty = everybody.
        planner: Name of the planner that made it.
        version: Only ever goes up, per subject and model; 0 = bundled default.
        issued_at_s: Unix seconds.
        expires_at_s: Unix seconds, after ``issued_at_s``; 0 = never.
        key_id: 16 bytes, start of the SHA-256 of the signer's public key; empty = unsigned.

    Raises:
        ConfigError: A field is outside its range, or the codes do not fit the layers.
    """

    model_digest: bytes
    levels: LevelTable
    layers: LayerTable
    codes: NDArray[np.uint8]
    budget_bytes: int
    subject: str
    planner: str
    version: int
    issued_at_s: int
    expires_at_s: int
    key_id: bytes

    def __post_init__(self) -> None:
        if len(self.model_digest) != DIGEST_BYTES:
            raise ConfigError(f"model_digest: expected {DIGEST_BYTES} bytes")
        if len(self.key_id) not in {0, KEY_ID_BYTES}:
            raise ConfigError(f"key_id: expected {KEY_ID_BYTES} bytes, or none when unsigned")
        check_layers(self.layers)
        if self.codes.shape != (total_channels(self.layers),):
            raise ConfigError(
                f"codes: expected one for each of {total_channels(self.layers)} channels, got an "
                f"array of shape {self.codes.shape}"
            )
        check_codes(self.codes)
        check_text(self.subject, field="subject", maximum=MAX_SUBJECT_LENGTH)
        check_name(self.planner, field="planner")
        for field in ("budget_bytes", "version", "issued_at_s", "expires_at_s"):
            check_integer(getattr(self, field), field=field)
        if self.expires_at_s and self.expires_at_s <= self.issued_at_s:
            raise ConfigError(
                f"expires_at_s: expected 0 or more than issued_at_s ({self.issued_at_s}), got "
                f"{self.expires_at_s}"
            )
        object.__setattr__(self, "codes", read_only(self.codes))

    @property
    def widths(self) -> NDArray[np.uint8]:
        """(C_total,) uint8, bits per channel."""
        return self.levels.widths(self.codes)

    def __eq__(self, other: object) -> bool:
        """Tell whether every field is equal, codes included."""
        if not isinstance(other, Plan):
            return NotImplemented
        return _header_of(self) == _header_of(other) and np.array_equal(self.codes, other.codes)

    def __hash__(self) -> int:
        """Hash the header and the codes."""
        return hash((_header_bytes(self), self.codes.tobytes()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSizes:
    """What the parts of a container weigh; the payload is what CHORD calls the strategy.

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
        """Return the length of the container."""
        return self.header_bytes + self.payload_bytes + self.signature_bytes


@dataclass(frozen=True, slots=True)
class _Container:
    """A container whose bounds have been checked, but not yet its values."""

    header: PlanHeader
    layers: LayerTable
    codes: bytes
    sizes: PlanSizes


def encode_plan(plan: Plan, signer: Callable[[bytes], bytes] | None) -> bytes:
    """Write a plan container.

    Args:
        plan: The plan; its ``key_id`` says whose signature to expect.
        signer: Signs the bytes that precede the signature; None iff ``plan.key_id`` is empty.

    Returns:
        The container.

    Raises:
        ConfigError: Only one of signer and key id is given, the signature is not 64
            bytes long, or the header does not fit its 16-bit length.
    """
    if (signer is None) != (plan.key_id == b""):
        raise ConfigError("a plan with a key_id needs a signer, and one without must not have any")
    header = _header_bytes(plan)
    if len(header) > _MAX_HEADER_BYTES:
        raise ConfigError(
            f"header: expected at most {_MAX_HEADER_BYTES} bytes, got {len(header)}; "
            "shorten the layer names"
        )
    prelude = _PRELUDE.pack(PLAN_MAGIC, *PLAN_VERSION, len(header))
    signed = prelude + header + pack_codes(plan.codes)
    if signer is None:
        return signed
    signature = signer(signed)
    if len(signature) != SIGNATURE_BYTES:
        raise ConfigError(f"signer: expected {SIGNATURE_BYTES} bytes, got {len(signature)}")
    return signed + signature


def decode_plan(data: bytes) -> Plan:
    """Read a plan container. Does not verify the signature.

    Raises:
        MalformedArtifactError: The bytes are no plan container.
        IncompatibleArtifactError: The format's major version is unknown.
    """
    container = _open_container(data)
    header, start = container.header, container.sizes.header_bytes
    try:
        codes = unpack_codes(container.codes, total_channels(container.layers))
    except MalformedArtifactError as error:
        raise MalformedArtifactError(str(error), field="codes", offset=start) from error
    with reading("codes", start):
        check_codes(codes)
    with reading("header", _PRELUDE.size):
        return Plan(
            model_digest=header.model_digest,
            levels=levels_from_proto(header.levels),
            layers=container.layers,
            codes=codes,
            budget_bytes=header.budget_bytes,
            subject=header.subject,
            planner=header.planner,
            version=header.version,
            issued_at_s=header.issued_at_s,
            expires_at_s=header.expires_at_s,
            key_id=header.key_id,
        )


def split_signature(data: bytes) -> tuple[bytes, bytes | None]:
    """Part a container into what is signed and the signature over it.

    Returns:
        The signed bytes, and 64 bytes of signature or None when the plan is unsigned.

    Raises:
        MalformedArtifactError: The bytes are no plan container.
        IncompatibleArtifactError: The format's major version is unknown.
    """
    sizes = _open_container(data).sizes
    signed = sizes.header_bytes + sizes.payload_bytes
    return data[:signed], data[signed:] if sizes.signature_bytes else None


def plan_sizes(data: bytes) -> PlanSizes:
    """Measure the parts of a container.

    Raises:
        MalformedArtifactError: The bytes are no plan container.
        IncompatibleArtifactError: The format's major version is unknown.
    """
    return _open_container(data).sizes


def check_applies(plan: Plan, layers: LayerTable, model_digest: bytes) -> None:
    """Refuse a plan that was made for another model.

    Args:
        plan: The plan.
        layers: The installed model's layers.
        model_digest: The installed model's digest.

    Raises:
        IncompatibleArtifactError: Something differs; the message names the first thing.
    """
    for position, (have, want) in enumerate(zip(plan.layers, layers, strict=False)):
        if have != want:
            raise IncompatibleArtifactError(
                f"layer {position}: the model has {want.name!r} of {want.n_channels} x "
                f"{want.n_elements}, the plan is for {have.name!r} of {have.n_channels} x "
                f"{have.n_elements}; ask for a plan for this model"
            )
    if len(plan.layers) != len(layers):
        raise IncompatibleArtifactError(
            f"the model has {len(layers)} layers, the plan is for {len(plan.layers)}; ask for a "
            "plan for this model"
        )
    if plan.model_digest != model_digest:
        raise IncompatibleArtifactError(
            f"the model has digest {model_digest.hex()}, the plan is for "
            f"{plan.model_digest.hex()}; ask for a plan for this model"
        )


def _header_of(plan: Plan) -> PlanHeader:
    return PlanHeader(
        model_digest=plan.model_digest,
        levels=LevelTableMessage(bits=plan.levels.bits),
        layers=layers_to_proto(plan.layers),
        budget_bytes=plan.budget_bytes,
        subject=plan.subject,
        planner=plan.planner,
        version=plan.version,
        issued_at_s=plan.issued_at_s,
        expires_at_s=plan.expires_at_s,
        key_id=plan.key_id,
    )


def _header_bytes(plan: Plan) -> bytes:
    return serialize_message(_header_of(plan))


def _open_container(data: bytes) -> _Container:
    """Check bounds and lengths in the order of the bytes."""
    if not _PRELUDE.size <= len(data) <= MAX_PLAN_BYTES:
        raise MalformedArtifactError(
            f"expected {_PRELUDE.size}..{MAX_PLAN_BYTES} bytes, got {len(data)}",
            field="plan",
            offset=0,
        )
    magic, major, minor, header_length = _PRELUDE.unpack_from(data)
    if magic != PLAN_MAGIC:
        raise MalformedArtifactError(f"expected {PLAN_MAGIC!r}", field="magic", offset=0)
    check_major((major, minor), PLAN_VERSION, what="the plan")
    header_end = _PRELUDE.size + header_length
    if header_end > len(data):
        raise MalformedArtifactError(
            f"{header_length} bytes are declared, {len(data) - _PRELUDE.size} follow",
            field="header_length",
            offset=6,
        )
    content = data[_PRELUDE.size : header_end]
    header = parse_message(PlanHeader, content, field="header", offset=_PRELUDE.size)
    if minor <= PLAN_VERSION[1]:
        check_canonical(header, content, field="header", offset=_PRELUDE.size)
    with reading("header", _PRELUDE.size):
        layers = layers_from_proto(header.layers)
    sizes = PlanSizes(
        header_bytes=header_end,
        payload_bytes=packed_size(total_channels(layers)),
        signature_bytes=SIGNATURE_BYTES if header.key_id else 0,
    )
    if len(data) != sizes.total_bytes:
        raise MalformedArtifactError(
            f"expected {sizes.payload_bytes} bytes of codes and {sizes.signature_bytes} of "
            f"signature after the header, got {len(data) - header_end} in all",
            field="plan",
            offset=min(len(data), sizes.total_bytes),
        )
    return _Container(header, layers, data[header_end:][: sizes.payload_bytes], sizes)
