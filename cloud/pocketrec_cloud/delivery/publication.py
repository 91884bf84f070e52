# SPDX-License-Identifier: Apache-2.0
"""What is published right now, read from the TUF metadata of a store.

The chain timestamp -> snapshot -> targets is followed by version and digest, so a
publication that was interrupted half-way is never seen. Signatures are not checked
here: the server trusts its own disk, devices trust nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from pocketrec.errors import IntegrityError, MalformedArtifactError, StoreError
from pocketrec_cloud.delivery.layout import StoreLayout

__all__ = ["Publication", "PublicationCache", "PublishedFile", "read_publication"]


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


def read_publication(layout: StoreLayout) -> Publication:
    """Return what the store publishes.

    Raises:
        StoreError: The store has no repository yet.
        IntegrityError: A metadata file is not the one the timestamp vouches for.
        MalformedArtifactError: A metadata file is not TUF metadata.
        OSError: A file cannot be read.
    """
    if not layout.timestamp.exists():
        raise StoreError(
            f"expected a repository in {str(layout.root)!r}; make one with `pocketrec keys init`"
        )
    try:
        timestamp = Metadata[Timestamp].from_bytes(layout.timestamp.read_bytes())
        meta = timestamp.signed.snapshot_meta
        snapshot = Metadata[Snapshot].from_bytes(_read(layout, "snapshot", meta))
        meta = snapshot.signed.meta["targets.json"]
        targets = Metadata[Targets].from_bytes(_read(layout, "targets", meta))
    except DeserializationError as exc:
        raise MalformedArtifactError(
            f"expected TUF metadata in {str(layout.metadata)!r}; restore the store from a copy",
            field="metadata",
        ) from exc
    files = {
        path: PublishedFile(path=path, sha256=target.hashes["sha256"], length_bytes=target.length)
        for path, target in targets.signed.targets.items()
    }
    return Publication(
        timestamp=timestamp, snapshot=snapshot, targets=targets, files=MappingProxyType(files)
    )


class PublicationCache:
    """The current publication, read again only when ``timestamp.json`` was replaced.

    Safe to share between threads.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int], Publication] | None = None

    def current(self) -> Publication:
        """Return what is published now.

        Raises:
            StoreError: The store has no repository yet.
            ArtifactError: The store's metadata is damaged.
            OSError: A file cannot be read.
        """
        with self._lock:
            stamp = self._stamp()
            if self._seen is None or self._seen[0] != stamp:
                self._seen = (stamp, read_publication(self._layout))
            return self._seen[1]

    def _stamp(self) -> tuple[int, int]:
        """What changes whenever the file is replaced; zeros when it is absent."""
        try:
            status = self._layout.timestamp.stat()
        except FileNotFoundError:
            return (0, 0)
        return (status.st_ino, status.st_mtime_ns)


def _read(layout: StoreLayout, role: str, meta: MetaFile) -> bytes:
    """Return a metadata file after comparing it with what its parent says of it."""
    path = layout.metadata / f"{meta.version}.{role}.json"
    data = path.read_bytes()
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as exc:
        raise IntegrityError(
            f"{str(path)!r} is not the file that was published; restore it from a copy"
        ) from exc
    return data
