# SPDX-License-Identifier: Apache-2.0
"""One user's strategy: a 2-bit code for every channel of a frozen model.

This module gives the bytes of a container their meaning. Who may sign, and which
version or expiry is acceptable, is for the device to decide. ``docs/format.md`` §1.

Source: CHORD for 2 bits per channel on the wire; all around them is our choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec_proto.v1 import artifacts_pb2
from pocketrec_quantization.bitpack import pack_codes, unpack_codes
from pocketrec_quantization.checks import (
    check_integer,
    check_name,
    check_text,
    read_only,
    reading,
)
from pocketrec_quantization.container import (
    PLAN_MAGIC,
    PLAN_VERSION,
    PRELUDE_BYTES,
    SIGNATURE_BYTES,
    PlanSizes,
    open_container,
    plan_sizes,
    split_signature,
    write_container,
    write_message,
)
from pocketrec_quantization.layers import LayerTable, check_layers, total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable, check_codes
from pocketrec_quantization.limits import MAX_SUBJECT_LENGTH
from pocketrec_quantization.plan_layers import write_layers
from pocketrec_quantization.wire import levels_from_proto, serialize_message

__all__ = [
    "DIGEST_BYTES",
    "KEY_ID_BYTES",
    "MODEL_ID_BYTES",
    "PLAN_MAGIC",
    "PLAN_VERSION",
    "SIGNATURE_BYTES",
    "Plan",
    "PlanSizes",
    "check_applies",
    "decode_plan",
    "encode_plan",
    "model_id",
    "plan_message",
    "plan_sizes",
    "split_signature",
]

DIGEST_BYTES = 32
"""SHA-256."""

MODEL_ID_BYTES = 16
"""Start of the digest of a frozen part. ``docs/adr/0006-compact-plans.md`` has the reasoning."""

KEY_ID_BYTES = 8
"""Start of the SHA-256 of a public key: says which key to try, and vouches for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """One strategy, bound to one frozen model.

    Args:
        model_id: 16 bytes, of the frozen part; see :func:`model_id`.
        levels: What the codes mean in bits.
        layers: The model's coded matrices.
        codes: (C_total,) uint8, each 1..3, in the order of ``layers``.
        budget_bytes: What the planner had to stay within, scales included.
        subject: Pseudonym of whom the plan is for; empty = everybody.
        planner: Name of the planner that made it.
        version: Only ever goes up, per subject and model; 0 = bundled default.
        issued_at_s: Unix seconds.
        expires_at_s: Unix seconds, after ``issued_at_s``; 0 = never.
        key_id: 8 bytes, start of the SHA-256 of the signer's public key; empty = unsigned.

    Raises:
        ConfigError: A field is outside its range, or the codes do not fit the layers.
    """

    model_id: bytes
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
        if len(self.model_id) != MODEL_ID_BYTES:
            raise ConfigError(f"model_id: expected {MODEL_ID_BYTES} bytes")
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
        return hash((serialize_message(_header_of(self)), self.codes.tobytes()))


def model_id(model_digest: bytes) -> bytes:
    """Return how plans name a frozen part.

    Args:
        model_digest: 32 bytes, SHA-256 of the frozen part.

    Raises:
        ConfigError: That is no digest.
    """
    if len(model_digest) != DIGEST_BYTES:
        raise ConfigError(f"model_digest: expected {DIGEST_BYTES} bytes, got {len(model_digest)}")
    return model_digest[:MODEL_ID_BYTES]


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
    return write_container(_header_of(plan), pack_codes(plan.codes), signer)


def plan_message(plan: Plan) -> bytes:
    """Return what a plan's signature covers; equal plans give equal bytes.

    Raises:
        ConfigError: The header does not fit its 16-bit length.
    """
    return write_message(_header_of(plan), pack_codes(plan.codes))


def decode_plan(data: bytes) -> Plan:
    """Read a plan container. Does not verify the signature.

    Raises:
        MalformedArtifactError: The bytes are no plan container.
        IncompatibleArtifactError: The format's major version or the architecture is unknown.
    """
    container = open_container(data)
    header, start = container.header, container.sizes.header_bytes
    codes = unpack_codes(container.codes, total_channels(container.layers), offset=start)
    with reading("codes", start):
        check_codes(codes)
    with reading("header", PRELUDE_BYTES):
        return Plan(
            model_id=header.model_id,
            levels=_read_levels(header),
            layers=container.layers,
            codes=codes,
            budget_bytes=header.budget_bytes,
            subject=header.subject,
            planner=header.planner,
            version=header.version,
            issued_at_s=header.issued_at_s,
            expires_at_s=header.issued_at_s + header.lifetime_s if header.lifetime_s else 0,
            key_id=header.key_id,
        )


def check_applies(plan: Plan, layers: LayerTable, model_digest: bytes) -> None:
    """Refuse a plan that was made for another model.

    Args:
        plan: The plan.
        layers: The installed model's layers.
        model_digest: The installed model's digest, 32 bytes.

    Raises:
        ConfigError: ``model_digest`` is no digest.
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
    if plan.model_id != model_id(model_digest):
        raise IncompatibleArtifactError(
            f"the model has digest {model_digest.hex()}, the plan is for one that starts with "
            f"{plan.model_id.hex()}; ask for a plan for this model"
        )


def _header_of(plan: Plan) -> artifacts_pb2.PlanHeader:
    header = artifacts_pb2.PlanHeader(
        model_id=plan.model_id,
        budget_bytes=plan.budget_bytes,
        subject=plan.subject,
        planner=plan.planner,
        version=plan.version,
        issued_at_s=plan.issued_at_s,
        lifetime_s=plan.expires_at_s - plan.issued_at_s if plan.expires_at_s else 0,
        key_id=plan.key_id,
    )
    if plan.levels != DEFAULT_LEVELS:
        header.levels.bits.extend(plan.levels.bits)
    write_layers(plan.layers, header)
    return header


def _read_levels(header: artifacts_pb2.PlanHeader) -> LevelTable:
    if not header.HasField("levels"):
        return DEFAULT_LEVELS
    levels = levels_from_proto(header.levels)
    if levels == DEFAULT_LEVELS:
        raise ConfigError(f"levels: expected none in place of {DEFAULT_LEVELS.bits}")
    return levels
