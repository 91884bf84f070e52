# SPDX-License-Identifier: Apache-2.0
"""What is published right now, read from the TUF metadata of a store.

The chain timestamp -> snapshot -> targets is followed by version and digest, so a
publication that was interrupted half-way is never seen. Signatures are not checked
here: the server trusts its own storage, devices trust nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from pocketrec.errors import IntegrityError, MalformedArtifactError, StoreError
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore, Stamp
from pocketrec_cloud.delivery.publishing.layout import METADATA_FOLDER, TIMESTAMP, metadata_name

__all__ = ["Publication", "PublicationCache", "PublishedFile", "latest_root", "read_publication"]

_MAX_CACHED_FILES = 64  # those in force are three, and roots few


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One TUF target: the path devices ask for, and the content behind it."""

    path: str
    sha256: str
    length_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One consistent set of metadata, and the files it vouches for by path."""

    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    files: Mapping[str, PublishedFile]


def read_publication(artifacts: ArtifactStore) -> Publication:
    """Return what the store publishes.

    Raises:
        StoreError: The store has no repository yet.
        IntegrityError: A metadata file is not the one the timestamp vouches for.
        MalformedArtifactError: A metadata file is not TUF metadata.
        OSError: A file cannot be read.
    """
    try:
        data = artifacts.read(TIMESTAMP)
    except FileNotFoundError as exc:
        raise StoreError(
            f"expected a repository in {artifacts.url!r}; make one with `pocketrec keys init`"
        ) from exc
    try:
        timestamp = Metadata[Timestamp].from_bytes(data)
        meta = timestamp.signed.snapshot_meta
        snapshot = Metadata[Snapshot].from_bytes(_read(artifacts, "snapshot", meta))
        meta = snapshot.signed.meta["targets.json"]
        targets = Metadata[Targets].from_bytes(_read(artifacts, "targets", meta))
    except DeserializationError as exc:
        raise MalformedArtifactError(
            f"expected TUF metadata in {artifacts.url!r}; restore the store from a copy",
            field="metadata",
        ) from exc
    files = {
        path: PublishedFile(path=path, sha256=target.hashes["sha256"], length_bytes=target.length)
        for path, target in targets.signed.targets.items()
    }
    return Publication(
        timestamp=timestamp, snapshot=snapshot, targets=targets, files=MappingProxyType(files)
    )


def latest_root(artifacts: ArtifactStore) -> Metadata[Root]:
    """Return the newest root metadata.

    Raises:
        StoreError: The store has no repository yet.
        MalformedArtifactError: The file is no root metadata.
        OSError: It cannot be read.
    """
    versions = [
        int(name.split(".", 1)[0])
        for name in artifacts.names(METADATA_FOLDER)
        if name.endswith(".root.json")
    ]
    if not versions:
        raise StoreError(
            f"expected root metadata in {artifacts.url!r}; make it with `pocketrec keys init`"
        )
    name = metadata_name(f"{max(versions)}.root.json")
    try:
        return Metadata[Root].from_bytes(artifacts.read(name))
    except DeserializationError as exc:
        raise MalformedArtifactError(
            f"{artifacts.url}/{name}: expected TUF root metadata; restore the store from a copy",
            field="metadata",
        ) from exc


class PublicationCache:
    """The current publication, read again only when ``timestamp.json`` was replaced.

    Safe to share between threads.
    """

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._seen: tuple[Stamp, Publication] | None = None
        self._files_stamp: Stamp = ()
        self._files: dict[str, bytes] = {}

    def current(self) -> Publication:
        """Return what is published now.

        Raises:
            StoreError: The store has no repository yet.
            ArtifactError: The store's metadata is damaged.
            OSError: A file cannot be read.
        """
        with self._lock:
            stamp = self._artifacts.stamp(TIMESTAMP)
            if self._seen is None or self._seen[0] != stamp:
                self._seen = (stamp, read_publication(self._artifacts))
            return self._seen[1]

    def metadata(self, filename: str) -> bytes:
        """Return one TUF metadata file, byte for byte.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It cannot be read.
        """
        stamp = self._artifacts.stamp(TIMESTAMP)
        with self._lock:
            if stamp != self._files_stamp or len(self._files) >= _MAX_CACHED_FILES:
                self._files, self._files_stamp = {}, stamp
            known = self._files.get(filename)
        if known is not None:
            return known
        content = self._artifacts.read(metadata_name(filename))
        with self._lock:
            if stamp and stamp == self._files_stamp:
                self._files[filename] = content
        return content


def _read(artifacts: ArtifactStore, role: str, meta: MetaFile) -> bytes:
    """Return a metadata file after comparing it with what its parent says of it."""
    name = metadata_name(f"{meta.version}.{role}.json")
    data = artifacts.read(name)
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as exc:
        raise IntegrityError(
            f"{artifacts.url}/{name} is not the file that was published; restore it from a copy"
        ) from exc
    return data
