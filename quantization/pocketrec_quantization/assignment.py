# SPDX-License-Identifier: Apache-2.0
"""One device's assignment: which published bundle it should run, and which were taken back.

Signed by the keys that sign plans; the magic at the start of what is signed keeps the two apart.
Which version, key or expiry is acceptable is for the device to decide. ``docs/format.md`` §1.1.

Source: Uptane's director, who tells each vehicle what to run; the container is our choice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_proto.v1.artifacts_pb2 import BundleAssignment
from pocketrec_quantization.checks import (
    check_integer,
    check_major,
    check_name,
    check_text,
    reading,
)
from pocketrec_quantization.limits import (
    MAX_ASSIGNMENT_BYTES,
    MAX_DEVICE_ID_LENGTH,
    MAX_INTEGER,
    MAX_WITHDRAWN,
)
from pocketrec_quantization.plan import DIGEST_BYTES, KEY_ID_BYTES, SIGNATURE_BYTES
from pocketrec_quantization.wire import check_canonical, parse_message, serialize_message

__all__ = [
    "ASSIGNMENT_MAGIC",
    "ASSIGNMENT_VERSION",
    "Assignment",
    "decode_assignment",
    "encode_assignment",
]

ASSIGNMENT_MAGIC = b"PKRA"
"""The first four bytes of an assignment."""

ASSIGNMENT_VERSION = (1, 0)
"""Major and minor version of the containers this release writes."""

_PRELUDE = struct.Struct("<4sBBH")  # magic, major, minor, header length


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one device should run.

    Args:
        model_name: Model line.
        device_id: Of the device it is for.
        bundle_digest: 32 bytes, SHA-256 of the manifest to run.
        withdrawn: 32 bytes each, rising: bundles that were taken back.
        version: Only ever goes up, per model line; from 1.
        issued_at_s: Unix seconds.
        expires_at_s: Unix seconds, after ``issued_at_s``.
        key_id: 8 bytes, start of the SHA-256 of the signer's public key.

    Raises:
        ConfigError: A field is outside its range, or the bundle to run was taken back.
    """

    model_name: str
    device_id: str
    bundle_digest: bytes
    withdrawn: tuple[bytes, ...]
    version: int
    issued_at_s: int
    expires_at_s: int
    key_id: bytes

    def __post_init__(self) -> None:
        check_name(self.model_name, field="model_name")
        check_text(self.device_id, field="device_id", maximum=MAX_DEVICE_ID_LENGTH)
        if not self.device_id:
            raise ConfigError("device_id: expected the id of a device")
        if len(self.withdrawn) > MAX_WITHDRAWN:
            raise ConfigError(
                f"withdrawn: expected at most {MAX_WITHDRAWN}, got {len(self.withdrawn)}"
            )
        for digest in (self.bundle_digest, *self.withdrawn):
            if len(digest) != DIGEST_BYTES:
                raise ConfigError(
                    f"bundle_digest, withdrawn: expected {DIGEST_BYTES} bytes, got {len(digest)}"
                )
        if list(self.withdrawn) != sorted(set(self.withdrawn)):
            raise ConfigError("withdrawn: expected rising digests, each once")
        if self.bundle_digest in self.withdrawn:
            raise ConfigError("withdrawn: expected other bundles than the one to run")
        if len(self.key_id) != KEY_ID_BYTES:
            raise ConfigError(f"key_id: expected {KEY_ID_BYTES} bytes, got {len(self.key_id)}")
        check_integer(self.version, field="version", minimum=1)
        check_integer(self.issued_at_s, field="issued_at_s", maximum=MAX_INTEGER - 1)
        check_integer(self.expires_at_s, field="expires_at_s", minimum=self.issued_at_s + 1)


def encode_assignment(assignment: Assignment, signer: Callable[[bytes], bytes]) -> bytes:
    """Write an assignment container.

    Args:
        assignment: What to say; its ``key_id`` says whose signature to expect.
        signer: Signs all bytes before the signature.

    Raises:
        ConfigError: The signature is not 64 bytes long.
    """
    message = serialize_message(_message_of(assignment))
    signed = _PRELUDE.pack(ASSIGNMENT_MAGIC, *ASSIGNMENT_VERSION, len(message)) + message
    signature = signer(signed)
    if len(signature) != SIGNATURE_BYTES:
        raise ConfigError(f"signer: expected {SIGNATURE_BYTES} bytes, got {len(signature)}")
    return signed + signature


def decode_assignment(data: bytes) -> Assignment:
    """Read an assignment container. Does not verify the signature.

    Raises:
        MalformedArtifactError: The bytes are no assignment container.
        IncompatibleArtifactError: The format's major version is unknown.
    """
    message = _read_message(data)
    with reading("header", _PRELUDE.size):
        return Assignment(
            model_name=message.model_name,
            device_id=message.device_id,
            bundle_digest=message.bundle_digest,
            withdrawn=tuple(message.withdrawn),
            version=message.version,
            issued_at_s=message.issued_at_s,
            expires_at_s=message.issued_at_s + message.lifetime_s,
            key_id=message.key_id,
        )


def _message_of(assignment: Assignment) -> BundleAssignment:
    return BundleAssignment(
        model_name=assignment.model_name,
        device_id=assignment.device_id,
        bundle_digest=assignment.bundle_digest,
        withdrawn=assignment.withdrawn,
        version=assignment.version,
        issued_at_s=assignment.issued_at_s,
        lifetime_s=assignment.expires_at_s - assignment.issued_at_s,
        key_id=assignment.key_id,
    )


def _read_message(data: bytes) -> BundleAssignment:
    if not _PRELUDE.size + SIGNATURE_BYTES <= len(data) <= MAX_ASSIGNMENT_BYTES:
        raise MalformedArtifactError(
            f"expected {_PRELUDE.size + SIGNATURE_BYTES}..{MAX_ASSIGNMENT_BYTES} bytes, got "
            f"{len(data)}",
            field="assignment",
            offset=0,
        )
    magic, major, minor, length = _PRELUDE.unpack_from(data)
    if magic != ASSIGNMENT_MAGIC:
        raise MalformedArtifactError(
            f"expected {ASSIGNMENT_MAGIC!r}, got {magic!r}", field="magic", offset=0
        )
    check_major((major, minor), ASSIGNMENT_VERSION, what="the assignment")
    end = len(data) - SIGNATURE_BYTES
    if _PRELUDE.size + length != end:
        raise MalformedArtifactError(
            f"{length} bytes are declared, {end - _PRELUDE.size} come before the signature",
            field="header_length",
            offset=6,
        )
    content = data[_PRELUDE.size : end]
    message = parse_message(BundleAssignment, content, field="header", offset=_PRELUDE.size)
    if minor <= ASSIGNMENT_VERSION[1]:
        check_canonical(message, content, field="header", offset=_PRELUDE.size)
    return message
