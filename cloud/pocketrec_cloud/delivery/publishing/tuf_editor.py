# SPDX-License-Identifier: Apache-2.0
"""Edits TUF metadata in memory, and writes the outcome so that no reader sees half of it.

New versions are signed and staged first. ``commit`` then writes them, ``timestamp.json``
last: until that file is replaced, everybody reads the old publication, and a version number
that was never vouched for may be written again. A new root counts as soon as it lies there,
so it is written just before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.repository import Repository

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.layout import metadata_name
from pocketrec_cloud.delivery.publishing.publication import latest_root, read_publication

__all__ = ["LIFETIMES", "TufEditor", "sign_next"]

# Our choice: what needs an offline key lives a year, the snapshot survives a long weekend
# without a server, and a day bounds how long a network can hide a newer bundle.
LIFETIMES = {
    Role.ROOT: timedelta(days=365),
    Role.TARGETS: timedelta(days=365),
    Role.SNAPSHOT: timedelta(days=7),
    Role.TIMESTAMP: timedelta(days=1),
}


_COMMIT = {"targets": 0, "snapshot": 1, "root": 2, "timestamp": 3}


class TufEditor(Repository):
    """One edit of a store's metadata; throw it away after ``commit``.

    Args:
        artifacts: Where the metadata lies.
        keys: The keys of the roles that will be edited.
        now: Aware time that lifetimes count from.
        fresh: Whether to start an empty repository instead of the one in the store.
        root_signers: Keys that sign a new root beside the one in ``keys``: those that the
            root before it names, when they are to be replaced.

    Raises:
        StoreError: The store has no repository and ``fresh`` is not set.
        ArtifactError: The metadata in the store is damaged.
        OSError: It cannot be read.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        keys: KeyFolder,
        now: datetime,
        *,
        fresh: bool = False,
        root_signers: Iterable[CryptoSigner] = (),
    ) -> None:
        self._artifacts = artifacts
        self._keys = keys
        self._now = now
        self._root_signers = tuple(root_signers)
        self._staged: dict[str, bytes] = {}
        self._metadata: dict[str, Metadata[Any]] = _empty() if fresh else _published(artifacts)

    def open(self, role: str) -> Metadata[Any]:
        """Return a copy of a role's metadata, staged or published."""
        return copy.deepcopy(self._metadata[role])

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Stage the next version of a role: new version, expiry and signature.

        Raises:
            ConfigError: The role's key is absent, or not the one that the root names.
        """
        signer = self._keys.signer(Role(role))
        self._require_named(Role(role), signer, md)
        sign_next(md, signer, self._now)
        if role == Role.ROOT:
            for other in self._root_signers:
                md.sign(other, append=True)
        self._stage(role, md, md.to_bytes())

    def adopt_targets(self, content: bytes, md: Metadata[Targets]) -> None:
        """Stage targets metadata that was signed elsewhere.

        Args:
            content: The file, byte for byte.
            md: What it says; verified.
        """
        self._stage(Role.TARGETS, md, content)

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

    def commit(self) -> None:
        """Write what is staged: first what nobody reads yet, the timestamp last.

        Raises:
            OSError: A file cannot be written; the old publication stays in force.
        """
        for name, data in sorted(self._staged.items(), key=lambda file: _COMMIT[_role(file[0])]):
            self._artifacts.write(metadata_name(name), data)

    def _stage(self, role: str, md: Metadata[Any], content: bytes) -> None:
        self._metadata[role] = md
        name = "timestamp.json" if role == "timestamp" else f"{md.signed.version}.{role}.json"
        self._staged[name] = content

    def _require_named(self, role: Role, signer: CryptoSigner, md: Metadata[Any]) -> None:
        """Refuse a key whose signature devices would not accept."""
        root: Root = md.signed if role is Role.ROOT else self._metadata["root"].signed
        if signer.public_key.keyid not in root.roles[role].keyids:
            raise ConfigError(
                f"{str(self._keys.path(role))!r} is not the {role} key that the root metadata "
                "names; copy the right one here, or replace the key with `pocketrec keys rotate`"
            )

    def _staged_meta(self, role: str) -> MetaFile | None:
        """Return version, length and digest of a role's staged file, if there is one."""
        version = self._metadata[role].signed.version
        data = self._staged.get(f"{version}.{role}.json")
        return None if data is None else MetaFile.from_data(version, data, ["sha256"])


def sign_next(md: Metadata[Any], signer: CryptoSigner, now: datetime) -> None:
    """Make metadata the next version of its role: version, expiry, and one signature.

    Args:
        md: What is changed.
        signer: The role's key.
        now: Aware time that the lifetime counts from.
    """
    md.signed.version += 1
    md.signed.expires = now + LIFETIMES[Role(md.signed.type)]
    md.sign(signer)


def _role(filename: str) -> str:
    """Return whose metadata a file holds, e.g. of "3.targets.json" or "timestamp.json"."""
    return filename.split(".")[-2]


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


def _published(artifacts: ArtifactStore) -> dict[str, Metadata[Any]]:
    publication = read_publication(artifacts)
    return {
        "root": latest_root(artifacts),
        "targets": publication.targets,
        "snapshot": publication.snapshot,
        "timestamp": publication.timestamp,
    }
