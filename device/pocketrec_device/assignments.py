# SPDX-License-Identifier: Apache-2.0
"""Decides which assignments a device accepts: bytes in, verdict out; no disk, no network, no clock.

An assignment says which of the bundles that TUF vouches for a device should run. It cannot make a
device run anything else, nor go back to an older bundle but by taking the newer one back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import (
    ExpiredArtifactError,
    IncompatibleArtifactError,
    IntegrityError,
    RollbackError,
)
from pocketrec_device.updater import TargetInfo, signer_of
from pocketrec_quantization.assignment import Assignment, decode_assignment
from pocketrec_quantization.limits import MAX_ASSIGNMENT_BYTES

if TYPE_CHECKING:
    from pocketrec.signing import PublicKey
    from pocketrec_device.tuf_client import PublishedTargets

__all__ = ["AssignmentRules", "accept_assignment", "assigned_target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentRules:
    """What an assignment must satisfy on this device, now.

    Args:
        model: The model line this store follows.
        device_id: The name the server gave this device.
        minimum_version: The highest version accepted before.
        now_s: Unix seconds, not before any signed time seen.
    """

    model: str
    device_id: str
    minimum_version: int
    now_s: int


def accept_assignment(
    data: bytes, *, keys: Sequence[PublicKey], rules: AssignmentRules
) -> Assignment:
    """Return the assignment in received bytes, when this device may obey it.

    Args:
        data: An assignment container, straight from the network.
        keys: Keys that may sign assignments.
        rules: What it must satisfy.

    Raises:
        IntegrityError: No key signed these bytes.
        MalformedArtifactError: Signed, but no assignment.
        IncompatibleArtifactError: For another device, another model line or another release.
        RollbackError: Older than one accepted before.
        ExpiredArtifactError: Past its expiry.
    """
    key = signer_of(data, keys, what="assignment", maximum_bytes=MAX_ASSIGNMENT_BYTES)
    assignment = decode_assignment(data)
    if assignment.key_id != key.key_id:
        raise IntegrityError(
            f"the assignment names key {assignment.key_id.hex()!r}, but key {key.key_id.hex()} "
            "signed it"
        )
    found = (assignment.device_id, assignment.model_name)
    if found != (rules.device_id, rules.model):
        raise IncompatibleArtifactError(
            f"this is device {rules.device_id!r} of model {rules.model!r}, but the assignment is "
            f"for {found[0]!r} of {found[1]!r}"
        )
    if assignment.version < rules.minimum_version:
        raise RollbackError(
            f"expected an assignment of version {rules.minimum_version} or above, got version "
            f"{assignment.version}; the server may have lost its records",
            installed=rules.minimum_version,
            offered=assignment.version,
        )
    if assignment.expires_at_s <= rules.now_s:
        raise ExpiredArtifactError(
            f"the assignment expired at {assignment.expires_at_s} s, and it is {rules.now_s} s "
            "now; check the clocks of server and device"
        )
    return assignment


def assigned_target(assignment: Assignment, targets: PublishedTargets) -> TargetInfo:
    """Return what TUF promises about the bundle that an assignment names.

    Args:
        assignment: Accepted.
        targets: What is published.

    Raises:
        IntegrityError: TUF does not vouch for that bundle today.
        ArtifactError: Delegated metadata cannot be trusted.
        ServiceError: The server could not be asked.
    """
    digest, model = assignment.bundle_digest.hex(), assignment.model_name
    for path in (f"{model}/manifest.pb", f"{model}/bundles/{digest}.pb"):
        target = targets.find(path)
        if target is not None and target.sha256 == digest:
            return target
    raise IntegrityError(
        f"the assignment names bundle {digest}, which is not among the published ones; if it was "
        "published just now, sync again"
    )
