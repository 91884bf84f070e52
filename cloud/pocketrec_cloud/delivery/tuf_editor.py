# SPDX-License-Identifier: Apache-2.0
"""Edits TUF metadata in memory, and writes the outcome so that no reader sees half of it.

New versions are signed and staged first. ``commit`` then writes them in the order they
were closed, ``timestamp.json`` last: until that file is replaced, everybody reads the old
publication, and a version number that was never vouched for may be written again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.repository import Repository

from pocketrec.errors import MalformedArtifactError
from pocketrec_cloud.delivery.keys import KeyFolder, Role
from pocketrec_cloud.delivery.layout import StoreLayout
from pocketrec_cloud.delivery.publication import read_publication

Writer = Callable[[Path, bytes], None]

__all__ = ["LIFETIMES", "TufEditor", "latest_root"]

# Our choice: what needs an offline key lives a year, the snapshot survives a long weekend
# without a server, and a day bounds how long a network can hide a newer bundle.
LIFETIMES = {
    Role.ROOT: timedelta(days=365),
    Role.TARGETS: timedelta(days=365),
    Role.SNAPSHOT: timedelta(days=7),
    Role.TIMESTAMP: timedelta(days=1),
}


def latest_root(layout: StoreLayout) -> Path | None:
    """Return the path of the newest root metadata, or None in an empty store."""
    roots = layout.metadata.glob("*.root.json")
    return max(roots, key=lambda path: int(path.name.split(".")[0]), default=None)


class TufEditor(Repository):
    """One edit of a store's metadata; throw it away after ``commit``.

    Args:
        layout: The store.
        keys: The keys of the roles that will be edited.
        now: Aware time that lifetimes count from.
        fresh: Whether to start an empty repository instead of the one on disk.

    Raises:
        StoreError: The store has no repository and ``fresh`` is not set.
        ArtifactError: The metadata on disk is damaged.
    """

    def __init__(
        self, layout: StoreLayout, keys: KeyFolder, now: datetime, *, fresh: bool = False
    ) -> None:
        self._layout = layout
        self._keys = keys
        self._now = now
        self._staged: dict[str, bytes] = {}
        self._metadata: dict[str, Metadata[Any]] = _empty() if fresh else _published(layout)

    def open(self, role: str) -> Metadata[Any]:
        """Return a copy of a role's metadata, staged or published."""
        return copy.deepcopy(self._metadata[role])

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Stage the next version of a role: new version, expiry and signature.

        Raises:
            ConfigError: The role's key is absent.
        """
        md.signed.version += 1
        md.signed.expires = self._now + LIFETIMES[Role(role)]
        md.sign(self._keys.signer(Role(role)))
        self._metadata[role] = md
        name = "timestamp.json" if role == "timestamp" else f"{md.signed.version}.{role}.json"
        self._staged[name] = md.to_bytes()

    def seal(self, *, snapshot: bool = True) -> None:
        """Stage a timestamp, and a snapshot before it, that vouch for what is staged.

        Args:
            snapshot: Whether a new snapshot is needed; without one only the timestamp
                lives longer.
        """
        if snapshot:
            with self.edit_snapshot() as edited:
                if (meta := self._staged_meta("targets")) is not None:
                    edited.meta["targets.json"] = meta
        with self.edit_timestamp() as stamped:
            if (meta := self._staged_meta("snapshot")) is not None:
                stamped.snapshot_meta = meta

    def commit(self, write: Writer) -> None:
        """Write what is staged, in the order in which it was closed.

        Raises:
            OSError: A file cannot be written; the old publication stays in force.
        """
        for name, data in self._staged.items():
            write(self._layout.metadata / name, data)

    def _staged_meta(self, role: str) -> MetaFile | None:
        """Return version, length and digest of a role's staged file, if there is one."""
        version = self._metadata[role].signed.version
        data = self._staged.get(f"{version}.{role}.json")
        return None if data is None else MetaFile.from_data(version, data, ["sha256"])


def _empty() -> dict[str, Metadata[Any]]:
    """Metadata of version 0, which ``close`` turns into version 1."""
    signed: dict[str, Root | Targets | Snapshot | Timestamp] = {
        "root": Root(consistent_snapshot=True),
        "targets": Targets(),
        "snapshot": Snapshot(),
        "timestamp": Timestamp(),
    }
    for value in signed.values():
        value.version = 0
    return {role: Metadata(value) for role, value in signed.items()}


def _published(layout: StoreLayout) -> dict[str, Metadata[Any]]:
    publication = read_publication(layout)
    root = latest_root(layout)
    metadata: dict[str, Metadata[Any]] = {
        "targets": publication.targets,
        "snapshot": publication.snapshot,
        "timestamp": publication.timestamp,
    }
    if root is not None:
        metadata["root"] = _read_root(root)
    return metadata


def _read_root(path: Path) -> Metadata[Root]:
    try:
        return Metadata[Root].from_bytes(path.read_bytes())
    except DeserializationError as exc:
        raise MalformedArtifactError(
            f"expected TUF root metadata in {str(path)!r}; restore the store from a copy",
            field="metadata",
        ) from exc
