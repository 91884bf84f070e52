# SPDX-License-Identifier: Apache-2.0
"""Which files TUF vouches for: the next set from the current one, as functions of values.

::

    director.json               public keys that may sign plans and assignments
    <model>/manifest.pb         one per model line: its current bundle
    <model>/bundles/<hex>.pb    every bundle that a device of the line may run, by digest
    parts/<sha256 hex>          the parts of those bundles

A bundle above the current version is a candidate; below it, it is kept for devices that are
sent back, up to ``KEPT_EARLIER``. What a bundle consists of is written beside its target, in
TUF's field for applications, so that the next set follows from the metadata alone: who holds
the offline key needs no file of the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from tuf.api.metadata import TargetFile, Targets

from pocketrec.errors import ConfigError, MalformedArtifactError, RollbackError
from pocketrec_quantization.bundle import Manifest, decode_manifest

__all__ = [
    "DIRECTOR_TARGET",
    "KEPT_EARLIER",
    "ListedBundle",
    "ModelLine",
    "bundle_target",
    "current_manifests",
    "find_line",
    "list_bundle",
    "manifest_target",
    "part_target",
    "promote_listed",
    "relist",
    "withdraw_listed",
]

DIRECTOR_TARGET = "director.json"
KEPT_EARLIER = 4
"""Earlier bundles of a model line that stay published. Source: our choice."""

_PART_PATH = re.compile(r"parts/[0-9a-f]{64}")
_MANIFEST_PATH = re.compile(r"(?P<model>[^/]+)/manifest\.pb")
_BUNDLE_PATH = re.compile(r"(?P<model>[^/]+)/bundles/(?P<digest>[0-9a-f]{64})\.pb")
_VERSIONS_FIELD = "x-pocketrec-versions"


def manifest_target(model_name: str) -> str:
    """Return the target path of a model line's current manifest."""
    return f"{model_name}/manifest.pb"


def bundle_target(model_name: str, digest: bytes) -> str:
    """Return the target path of the manifest of one bundle of a model line."""
    return f"{model_name}/bundles/{digest.hex()}.pb"


def part_target(sha256: str) -> str:
    """Return the target path of a part, by the lower-case hex of its SHA-256."""
    return f"parts/{sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedBundle:
    """One bundle that TUF vouches for.

    Args:
        digest: SHA-256 of the manifest, 32 bytes.
        version: As the manifest says.
        length_bytes: Of the manifest.
        parts: Length in bytes of every part, by the hex of its SHA-256.
    """

    digest: bytes
    version: int
    length_bytes: int
    parts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """The bundles of one model line.

    Args:
        name: Of the model.
        current: Digest of the bundle that everybody runs unless told otherwise; empty when
            there are only candidates.
        bundles: All of them, by rising version.
        highest_version: Of all that were ever published.
    """

    name: str
    current: bytes = b""
    bundles: tuple[ListedBundle, ...] = ()
    highest_version: int = 0

    @property
    def current_version(self) -> int:
        """Version of the current bundle; 0 = there is none."""
        return next((b.version for b in self.bundles if b.digest == self.current), 0)

    @property
    def candidates(self) -> tuple[ListedBundle, ...]:
        """Bundles above the current one."""
        return tuple(b for b in self.bundles if b.version > self.current_version)

    def find(self, digest: bytes) -> ListedBundle:
        """Return a bundle of the line.

        Raises:
            ConfigError: It is not published.
        """
        for bundle in self.bundles:
            if bundle.digest == digest:
                return bundle
        known = ", ".join(bundle.digest.hex() for bundle in self.bundles) or "none"
        raise ConfigError(
            f"model {self.name!r}: bundle {digest.hex()} is not published; these are: {known}"
        )


def find_line(targets: Targets, model_name: str) -> ModelLine:
    """Return what is published of one model line; empty when nothing is.

    Raises:
        MalformedArtifactError: The metadata is of a release that did not list bundles.
    """
    listed = _bundles(targets)
    unlisted = current_manifests(targets).keys() - listed.keys()
    if unlisted:
        raise MalformedArtifactError(
            f"the targets metadata does not list the bundle of {min(unlisted)!r}; it is of an "
            "earlier release: run `pocketrec keys renew` once",
            field="targets.json",
        )
    current = targets.targets.get(manifest_target(model_name))
    versions = targets.unrecognized_fields.get(_VERSIONS_FIELD, {})
    return ModelLine(
        name=model_name,
        current=b"" if current is None else bytes.fromhex(current.hashes["sha256"]),
        bundles=listed.get(model_name, ()),
        highest_version=versions.get(model_name, 0),
    )


def current_manifests(targets: Targets) -> dict[str, str]:
    """Return the digest, in hex, of the current manifest of every model line that has one."""
    return {
        match["model"]: target.hashes["sha256"]
        for path, target in targets.targets.items()
        if (match := _MANIFEST_PATH.fullmatch(path))
    }


def list_bundle(targets: Targets, manifest: bytes, *, is_candidate: bool) -> None:
    """Add a bundle to targets metadata, and drop what nobody needs any more.

    Args:
        targets: What is changed.
        manifest: The bundle's.
        is_candidate: Whether the current bundle stays what it is.

    Raises:
        RollbackError: The version is not above all that were published of the model line.
        MalformedArtifactError: The bytes are no manifest, or the metadata is of a release
            that did not list bundles.
    """
    decoded = decode_manifest(manifest)
    line = find_line(targets, decoded.model_name)
    if decoded.version <= line.highest_version:
        raise RollbackError(
            f"model {decoded.model_name!r} is published in version {line.highest_version}, and "
            f"devices refuse to go back to version {decoded.version}; build it with a higher "
            "version",
            installed=line.highest_version,
            offered=decoded.version,
        )
    target = TargetFile.from_data("", manifest, ["sha256"])
    added = _listed(decoded, bytes.fromhex(target.hashes["sha256"]), len(manifest))
    line = replace(
        line,
        current=line.current if is_candidate else added.digest,
        bundles=(*line.bundles, added),
        highest_version=decoded.version,
    )
    _put_line(targets, line)


def promote_listed(targets: Targets, model_name: str, digest: bytes) -> None:
    """Make a candidate the current bundle of its model line.

    Raises:
        ConfigError: It is not published.
        RollbackError: It is not above the current version.
        MalformedArtifactError: The metadata is of a release that did not list bundles.
    """
    line = find_line(targets, model_name)
    bundle = line.find(digest)
    if bundle not in line.candidates:
        raise RollbackError(
            f"model {model_name!r} is at version {line.current_version}, and only what is above "
            f"it can be promoted, not version {bundle.version}; build it with a higher version",
            installed=line.current_version,
            offered=bundle.version,
        )
    _put_line(targets, replace(line, current=digest))


def withdraw_listed(targets: Targets, model_name: str, digest: bytes) -> None:
    """Stop vouching for a bundle that is not the current one; its version is not used again.

    Raises:
        ConfigError: It is not published, or it is the current one.
        MalformedArtifactError: The metadata is of a release that did not list bundles.
    """
    line = find_line(targets, model_name)
    bundle = line.find(digest)
    if digest == line.current:
        raise ConfigError(
            f"bundle {digest.hex()} is the current one of {model_name!r}; publish another first"
        )
    rest = tuple(listed for listed in line.bundles if listed != bundle)
    _put_line(targets, replace(line, bundles=rest))


def relist(targets: Targets, manifests: Mapping[str, bytes]) -> None:
    """Bring metadata of a release that did not list bundles up to date.

    Args:
        targets: What is changed.
        manifests: The current manifest of every model line (see ``current_manifests``), by
            the model's name.

    Raises:
        MalformedArtifactError: Bytes are no manifest.
    """
    listed = _bundles(targets)
    for name, manifest in manifests.items():
        if name in listed:
            continue
        decoded = decode_manifest(manifest)
        digest = bytes.fromhex(targets.targets[manifest_target(name)].hashes["sha256"])
        bundle = _listed(decoded, digest, len(manifest))
        _put_line(
            targets,
            ModelLine(
                name=name, current=digest, bundles=(bundle,), highest_version=decoded.version
            ),
        )


def _listed(manifest: Manifest, digest: bytes, length_bytes: int) -> ListedBundle:
    parts = {part.sha256.hex(): part.length_bytes for part in manifest.parts}
    return ListedBundle(
        digest=digest,
        version=manifest.version,
        length_bytes=length_bytes,
        parts=MappingProxyType(parts),
    )


def _bundles(targets: Targets) -> dict[str, tuple[ListedBundle, ...]]:
    """Return the bundles of every model line, by rising version."""
    found: dict[str, list[ListedBundle]] = {}
    for path, target in targets.targets.items():
        if match := _BUNDLE_PATH.fullmatch(path):
            bundle = ListedBundle(
                digest=bytes.fromhex(match["digest"]),
                version=int(target.custom["version"]),
                length_bytes=target.length,
                parts=MappingProxyType(
                    {
                        sha256: targets.targets[part_target(sha256)].length
                        for sha256 in target.custom["parts"]
                    }
                ),
            )
            found.setdefault(match["model"], []).append(bundle)
    return {
        name: tuple(sorted(bundles, key=lambda bundle: bundle.version))
        for name, bundles in found.items()
    }


def _put_line(targets: Targets, line: ModelLine) -> None:
    """Replace a model line, forget its oldest bundles, and list the parts in use."""
    earlier = [b for b in line.bundles if b.version < line.current_version]
    kept = [b for b in line.bundles if b not in earlier[: max(0, len(earlier) - KEPT_EARLIER)]]
    lines = {**_bundles(targets), line.name: tuple(kept)}
    files = {
        path: target
        for path, target in targets.targets.items()
        if not _PART_PATH.fullmatch(path) and path != manifest_target(line.name)
        if not ((match := _BUNDLE_PATH.fullmatch(path)) and match["model"] == line.name)
    }
    for bundle in kept:
        path = bundle_target(line.name, bundle.digest)
        custom = {"version": bundle.version, "parts": sorted(bundle.parts)}
        files[path] = _target(path, bundle.digest.hex(), bundle.length_bytes, custom)
        if bundle.digest == line.current:
            path = manifest_target(line.name)
            files[path] = _target(path, bundle.digest.hex(), bundle.length_bytes)
    for bundles in lines.values():
        for bundle in bundles:
            for sha256, length_bytes in bundle.parts.items():
                path = part_target(sha256)
                files[path] = _target(path, sha256, length_bytes)
    targets.targets = dict(sorted(files.items()))
    versions = targets.unrecognized_fields.get(_VERSIONS_FIELD, {})
    targets.unrecognized_fields[_VERSIONS_FIELD] = {**versions, line.name: line.highest_version}


def _target(
    path: str, sha256: str, length_bytes: int, custom: dict[str, Any] | None = None
) -> TargetFile:
    fields = None if custom is None else {"custom": custom}
    return TargetFile(length_bytes, {"sha256": sha256}, path, fields)
