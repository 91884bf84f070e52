# SPDX-License-Identifier: Apache-2.0
"""Keys are replaced at the server; a device that knows the first root only follows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketrec.errors import ArtifactError, RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore, FolderArtifacts
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.layout import metadata_name, target_name
from pocketrec_cloud.delivery.publishing.repository import create_repository, renew_repository
from pocketrec_cloud.delivery.publishing.rotation import rotate_key
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_device.tuf_client import TrustedTargets
from pocketrec_device.updater import accept_content, read_director_keys


@dataclass(frozen=True)
class Connection:
    """What a device asks the server for, answered from the server's files."""

    artifacts: ArtifactStore

    def get_metadata(self, filename: str) -> bytes:
        """See ``ServiceClient.get_metadata``."""
        try:
            return self.artifacts.read(metadata_name(filename))
        except FileNotFoundError as exc:
            raise RejectedError(f"no {filename}", code="NOT_FOUND") from exc


@dataclass(frozen=True)
class Server:
    """A repository without bundles, and a device that was built when it was new."""

    folder: Path
    storage: Storage
    root: bytes

    @property
    def keys(self) -> Path:
        """Offline and online keys."""
        return self.folder / "keys"

    def sync(self) -> TrustedTargets:
        """Let the device refresh its metadata."""
        return TrustedTargets(Connection(self.storage.artifacts), self.folder / "device", self.root)

    def director_keys(self) -> list[bytes]:
        """Return the keys whose plans the device takes after a sync."""
        target = self.sync().find("director.json")
        assert target is not None
        content = accept_content(self.storage.artifacts.read(target_name(target.sha256)), target)
        return [key.raw for key in read_director_keys(content)]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A new repository, and a device that has seen it."""
    KeyFolder(tmp_path / "keys").create()
    storage = Storage(artifacts=FolderArtifacts(tmp_path / "store"), database=MemoryStore())
    root = create_repository(storage, tmp_path / "keys")
    server = Server(tmp_path, storage, root)
    server.sync()
    return server


class TestRootRotation:
    def test_device_follows_step_by_step(self, server: Server) -> None:
        """However many roots were skipped, each vouches for the next."""
        for _ in range(3):
            rotate_key(server.storage, server.keys, Role.ROOT)

        server.sync()

        assert (server.folder / "device" / "root_history" / "4.root.json").exists()

    def test_root_without_the_old_signature_is_refused(self, server: Server) -> None:
        """Who has only a key of their own cannot take a device over."""
        own = KeyFolder(server.folder / "own")
        own.create()
        rotate_key(server.storage, server.keys, Role.ROOT)
        thief = Storage(artifacts=FolderArtifacts(server.folder / "thief"), database=MemoryStore())
        create_repository(thief, own.root)
        renew_repository(thief, own.root)
        forged = thief.artifacts.read("metadata/2.root.json")
        server.storage.artifacts.write("metadata/2.root.json", forged)

        with pytest.raises(ArtifactError):
            server.sync()


@pytest.mark.parametrize("role", [Role.TARGETS, Role.SNAPSHOT, Role.TIMESTAMP])
def test_device_follows_other_keys(role: Role, server: Server) -> None:
    """The root names them, and the device reads the root first."""
    rotate_key(server.storage, server.keys, role)

    server.sync()


class TestDirectorRotation:
    def test_plans_of_both_keys_are_taken_for_a_while(self, server: Server) -> None:
        """What the old key signed is good until everything is renewed."""
        path = KeyFolder(server.keys).path(Role.DIRECTOR)
        old = SigningKey.load(path).public.raw

        rotate_key(server.storage, server.keys, Role.DIRECTOR, keep_old=True)
        both = server.director_keys()
        renew_repository(server.storage, server.keys)

        new = SigningKey.load(path).public.raw
        assert both == [new, old]
        assert server.director_keys() == [new]

    def test_stolen_key_counts_no_more(self, server: Server) -> None:
        """Without a while, the device forgets the old key with the next sync."""
        rotate_key(server.storage, server.keys, Role.DIRECTOR)

        path = KeyFolder(server.keys).path(Role.DIRECTOR)
        assert server.director_keys() == [SigningKey.load(path).public.raw]
