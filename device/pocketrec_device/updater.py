# SPDX-License-Identifier: Apache-2.0
"""Decides what a device accepts: bytes in, verdict out; no disk, no network, no clock.

Each function either returns what the bytes mean or raises an ``ArtifactError``. The order
in which ``sync`` asks is the order of this file:

1. a file that TUF vouches for has exactly the promised length and SHA-256;
2. the manifest is for our model line and not older than any accepted before, and neither
   is its item table;
3. every part it names is promised by TUF with the same length and digest;
4. ``director.json`` lists the keys that may sign plans;
5. a plan is signed by one of them, fits the model, is for us, is not older than one
   accepted before, and has not expired.

Nothing is parsed before it is verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import (
    ConfigError,
    ExpiredArtifactError,
    IncompatibleArtifactError,
    IntegrityError,
    MalformedArtifactError,
    RollbackError,
)
from pocketrec.signing import SIGNATURE_BYTES, PublicKey
from pocketrec_device.floors import ItemsFloor
from pocketrec_quantization.bundle import FROZEN, ITEMS, Manifest, PartInfo, decode_manifest
from pocketrec_quantization.limits import MAX_PLAN_BYTES
from pocketrec_quantization.plan import Plan, check_applies, decode_plan

if TYPE_CHECKING:
    from pocketrec_quantization.layers import LayerTable

__all__ = [
    "PlanRules",
    "TargetInfo",
    "accept_content",
    "accept_items",
    "accept_manifest",
    "accept_part",
    "accept_plan",
    "check_root",
    "is_expired",
    "items_of",
    "read_director_keys",
    "signer_of",
]

_MAX_DIRECTOR_KEYS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """What TUF promises about one file.

    Args:
        path: Its target path, e.g. ``"demo/manifest.pb"``.
        length_bytes: Its length.
        sha256: Its digest, 64 hex characters.
    """

    path: str
    length_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRules:
    """What a plan must satisfy on this device, now.

    Args:
        model_digest: 32 bytes, of the frozen part the plan must be for.
        layers: The coded matrices of that model.
        subject: Whom the plan must be for; empty = everybody.
        minimum_version: The lowest version to accept. Above the highest one accepted
            before, or equal to it when that plan is no longer on the device.
        now_s: Unix seconds, not before any signed time seen.
    """

    model_digest: bytes
    layers: LayerTable
    subject: str
    minimum_version: int
    now_s: int


def check_root(data: bytes) -> None:
    """Refuse what is plainly no root of trust: a store keeps its first root for good.

    Whether it is the right one shows when python-tuf verifies with it.

    Raises:
        ConfigError: The bytes are no TUF root metadata.
    """
    try:
        is_root = json.loads(data)["signed"]["_type"] == "root"
    except (ValueError, TypeError, KeyError, RecursionError):
        is_root = False
    if not is_root:
        raise ConfigError(
            "root: expected TUF root metadata, the 1.root.json that 'pocketrec keys init' names"
        )


def accept_content(data: bytes, target: TargetInfo) -> bytes:
    """Return ``data`` when it is what TUF promised.

    Raises:
        IntegrityError: Length or digest differ.
    """
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != target.length_bytes or digest != target.sha256:
        raise IntegrityError(
            f"{target.path}: expected {target.length_bytes} bytes with SHA-256 {target.sha256}, "
            f"got {len(data)} bytes with {digest}; sync again"
        )
    return data


def accept_manifest(data: bytes, *, model: str, floor: int, accepted: frozenset[str]) -> Manifest:
    """Return the manifest in verified bytes, when this device may install it.

    Args:
        data: Bytes that ``accept_content`` let through.
        model: The model line this store follows.
        floor: The highest bundle version accepted before.
        accepted: Digests, in hex, of the bundles accepted before that are still known.

    Raises:
        MalformedArtifactError: The bytes are no manifest.
        IncompatibleArtifactError: It is for another model line, or another release.
        RollbackError: It is older than one accepted before, or has the same version and
            other content.
    """
    manifest = decode_manifest(data)
    if manifest.model_name != model:
        raise IncompatibleArtifactError(
            f"this store follows model {model!r}, but the bundle is for {manifest.model_name!r}; "
            "use a store of its own for each model"
        )
    is_known = hashlib.sha256(data).hexdigest() in accepted
    if manifest.version < floor or (manifest.version == floor and floor and not is_known):
        raise RollbackError(
            f"expected a bundle above version {floor}, got version {manifest.version}; "
            "publish under a higher version",
            installed=floor,
            offered=manifest.version,
        )
    return manifest


def items_of(manifest: Manifest) -> ItemsFloor:
    """Return what to remember of a bundle's item table once it is installed.

    Raises:
        IncompatibleArtifactError: The bundle has no weights, or no item table.
    """
    return ItemsFloor(
        model_digest=manifest.part(FROZEN).sha256.hex(),
        version=manifest.items.version,
        sha256=manifest.part(ITEMS).sha256.hex(),
    )


def accept_items(manifest: Manifest, floor: ItemsFloor | None) -> None:
    """Return quietly when the item table is not older than the last one of this model.

    Args:
        manifest: Accepted.
        floor: The newest item table accepted before, if it is known.

    Raises:
        RollbackError: It is older, or has the same version and other content.
        IncompatibleArtifactError: The bundle has no weights, or no item table.
    """
    offered = items_of(manifest)
    if floor is None or offered.model_digest != floor.model_digest:
        return
    is_other = offered.version == floor.version and offered.sha256 != floor.sha256
    if offered.version < floor.version or is_other:
        raise RollbackError(
            f"expected an item table above version {floor.version}, got version "
            f"{offered.version}{' with other content' if is_other else ''}; publish it under a "
            "higher version",
            installed=floor.version,
            offered=offered.version,
        )


def accept_part(part: PartInfo, target: TargetInfo | None) -> None:
    """Return quietly when TUF promises the part that the manifest names.

    Raises:
        IntegrityError: TUF does not know it, or promises something else.
    """
    promised = None if target is None else (target.length_bytes, target.sha256)
    named = (part.length_bytes, part.sha256.hex())
    if promised != named:
        raise IntegrityError(
            f"part {part.name!r}: the manifest names {named[0]} bytes with SHA-256 {named[1]}, "
            f"but the signed targets say {promised}; publish the bundle again"
        )


def read_director_keys(data: bytes) -> tuple[PublicKey, ...]:
    """Return the keys in verified ``director.json`` bytes.

    Raises:
        MalformedArtifactError: The bytes are not
            ``{"keys": [{"key_id": <hex>, "public_key": <hex>}, ...]}`` with 1 to 16 keys,
            or a key id is not its key's.
    """
    try:
        entries = json.loads(data)["keys"]
        keys = tuple(PublicKey(bytes.fromhex(entry["public_key"])) for entry in entries)
        ids = [bytes.fromhex(entry["key_id"]) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise MalformedArtifactError(f"not a list of keys: {exc!r}", field="director.json") from exc
    if ids != [key.key_id for key in keys] or not 1 <= len(keys) <= _MAX_DIRECTOR_KEYS:
        raise MalformedArtifactError(
            f"expected 1 to {_MAX_DIRECTOR_KEYS} keys under their own ids, got {len(keys)}",
            field="director.json",
        )
    return keys


def accept_plan(data: bytes, *, keys: Sequence[PublicKey], rules: PlanRules) -> Plan:
    """Return the plan in received bytes, when this device may install it.

    Args:
        data: A plan container, straight from the network.
        keys: Keys that may sign plans.
        rules: What the plan must satisfy.

    Raises:
        IntegrityError: No key signed these bytes.
        MalformedArtifactError: Signed, but no plan.
        IncompatibleArtifactError: For another model or another subject.
        RollbackError: Older than one accepted before.
        ExpiredArtifactError: Past its expiry.
    """
    key = signer_of(data, keys, what="plan", maximum_bytes=MAX_PLAN_BYTES)
    plan = decode_plan(data)
    if plan.key_id != key.key_id:
        raise IntegrityError(
            f"the plan names key {plan.key_id.hex()!r}, but key {key.key_id.hex()} signed it"
        )
    check_applies(plan, rules.layers, rules.model_digest)
    if plan.subject != rules.subject:
        raise IncompatibleArtifactError(
            f"asked for a plan for subject {rules.subject!r}, got one for {plan.subject!r}"
        )
    if plan.version < rules.minimum_version:
        raise RollbackError(
            f"expected a plan of version {rules.minimum_version} or above, "
            f"got version {plan.version}; the server may have lost its records",
            installed=rules.minimum_version - 1,
            offered=plan.version,
        )
    if is_expired(plan, rules.now_s):
        raise ExpiredArtifactError(
            f"the plan expired at {plan.expires_at_s} s, and it is {rules.now_s} s now; "
            "check the clocks of server and device"
        )
    return plan


def is_expired(plan: Plan, now_s: int) -> bool:
    """Whether a plan is past its expiry at ``now_s``, Unix seconds."""
    return 0 < plan.expires_at_s <= now_s


def signer_of(
    data: bytes, keys: Sequence[PublicKey], *, what: str, maximum_bytes: int
) -> PublicKey:
    """Return the key that signed a container; the bytes are not parsed for it.

    Args:
        data: A container whose last 64 bytes are the signature.
        keys: Keys that may sign.
        what: The container, for the message.
        maximum_bytes: The longest that one can be.

    Raises:
        IntegrityError: No key signed these bytes.
    """
    if not SIGNATURE_BYTES < len(data) <= maximum_bytes:
        raise IntegrityError(
            f"expected a signed {what} of at most {maximum_bytes} bytes, got {len(data)} bytes"
        )
    for key in keys:
        try:
            key.verify(data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:])
        except IntegrityError:
            continue
        return key
    raise IntegrityError(
        f"the {what} is signed by none of the {len(keys)} director keys; "
        "it was damaged on the way, or made by someone else"
    )
