# SPDX-License-Identifier: Apache-2.0
"""Makes a repository, and keeps its metadata and keys alive.

Every function works under the store's lock and writes contents first, then metadata, and
``timestamp.json`` last. An interruption anywhere leaves the old publication in force, and the
call can simply be repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.metadata import Root, Signed, TargetFile

from pocketrec.errors import ConfigError, StoreError
from pocketrec.signing import PublicKey
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.layout import TIMESTAMP, metadata_name, target_name
from pocketrec_cloud.delivery.publishing.publication import Publication, read_publication
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.publishing.targets import DIRECTOR_TARGET, current_manifests, relist
from pocketrec_cloud.delivery.publishing.tuf_editor import LIFETIMES, TufEditor

__all__ = [
    "create_repository",
    "put_content",
    "put_director",
    "refresh_timestamp",
    "renew_repository",
    "sign_everything",
    "to_datetime",
]


def create_repository(
    storage: Storage, keys: Path, *, clock: Callable[[], float] = time.time
) -> bytes:
    """Sign an empty repository.

    Args:
        storage: Where to; must hold none.
        keys: Folder with all five keys.
        clock: Unix seconds.

    Returns:
        The root metadata: the trust anchor an app is built with.

    Raises:
        StoreError: The store holds a repository already, or another process writes to it.
        ConfigError: A key is absent.
        OSError: A file cannot be written.
    """
    artifacts, folder = storage.artifacts, KeyFolder(keys)
    with storage.writing():
        if artifacts.size_bytes(TIMESTAMP) is not None:
            raise StoreError(f"{artifacts.url!r} holds a repository already; publish into that one")
        editor = TufEditor(artifacts, folder, to_datetime(clock()), fresh=True)
        sign_everything(editor, artifacts, folder, [folder.load(Role.DIRECTOR).public])
    return artifacts.read(metadata_name("1.root.json"))


def refresh_timestamp(storage: Storage, keys: Path, now_s: float) -> bool:
    """Sign the timestamp again when it is past half its life, and the snapshot likewise.

    Needs the online keys only.

    Args:
        storage: Holds the repository.
        keys: Folder with the snapshot and timestamp keys.
        now_s: Unix seconds.

    Returns:
        Whether anything was signed.

    Raises:
        StoreError: There is no repository, or another process writes to it.
        ArtifactError: The store's metadata is damaged.
        ConfigError: A key is absent, or not the one that the root names.
        OSError: A file cannot be written.
    """
    artifacts, now = storage.artifacts, to_datetime(now_s)
    if not _is_due(read_publication(artifacts), now):
        return False
    with storage.writing():
        published = read_publication(artifacts)  # another server may have been first
        if not _is_due(published, now):
            return False
        editor = TufEditor(artifacts, KeyFolder(keys), now)
        editor.seal(snapshot=_is_past_half_life(published.snapshot.signed, now))
        editor.commit()
    return True


def renew_repository(
    storage: Storage, keys: Path, *, clock: Callable[[], float] = time.time
) -> int:
    """Sign everything again with the keys that lie in the folder now.

    Run it well before a year is over. Director keys but the one in the folder are forgotten.
    If a key was replaced by hand and it is interrupted, devices may refuse to sync until it
    is repeated.

    Args:
        storage: Holds the repository.
        keys: Folder with all five keys.
        clock: Unix seconds.

    Returns:
        The version of the new root metadata.

    Raises:
        StoreError: There is no repository, or another process writes to it.
        ArtifactError: The store's metadata is damaged.
        ConfigError: A key is absent, or the root key is not the one that devices know.
        OSError: A file cannot be written.
    """
    artifacts, folder = storage.artifacts, KeyFolder(keys)
    with storage.writing():
        editor = TufEditor(artifacts, folder, to_datetime(clock()))
        if folder.signer(Role.ROOT).public_key.keyid not in editor.root().roles["root"].keyids:
            raise ConfigError(
                f"{str(folder.path(Role.ROOT))!r} is not the root key that devices know; "
                "copy that one here, or replace it with `pocketrec keys rotate`"
            )
        sign_everything(editor, artifacts, folder, [folder.load(Role.DIRECTOR).public])
        return editor.root().version


def sign_everything(
    editor: TufEditor, artifacts: ArtifactStore, keys: KeyFolder, directors: Sequence[PublicKey]
) -> None:
    """Name the keys that lie in a folder, sign all metadata with them, and write it.

    Args:
        editor: What is edited and written.
        artifacts: Where published files lie.
        keys: All keys.
        directors: Who may sign plans.

    Raises:
        ArtifactError: A published manifest is damaged.
        ConfigError: A key is absent.
        OSError: A file cannot be read or written.
    """
    with editor.edit_root() as root:
        _name_keys(root, keys)
    with editor.edit_targets() as targets:
        relist(
            targets,
            {
                name: artifacts.read(target_name(sha256))
                for name, sha256 in current_manifests(targets).items()
            },
        )
        targets.targets[DIRECTOR_TARGET] = put_director(artifacts, directors)
    editor.seal()
    editor.commit()


def put_director(artifacts: ArtifactStore, keys: Sequence[PublicKey]) -> TargetFile:
    """Store the list of keys that may sign plans, and describe it as a target.

    Raises:
        OSError: The file cannot be written.
    """
    entries = [{"key_id": key.key_id.hex(), "public_key": key.raw.hex()} for key in keys]
    content = json.dumps({"keys": entries}).encode()
    target = TargetFile.from_data(DIRECTOR_TARGET, content, ["sha256"])
    put_content(artifacts, target.hashes["sha256"], content)
    return target


def put_content(artifacts: ArtifactStore, sha256: str, content: bytes) -> None:
    """Store a published content under its digest, unless it lies there.

    Raises:
        OSError: The file cannot be read or written.
    """
    name = target_name(sha256)
    if artifacts.size_bytes(name) != len(content) or artifacts.read(name) != content:
        artifacts.write(name, content)


def to_datetime(unix_s: float) -> datetime:
    """Return Unix seconds as an aware time."""
    return datetime.fromtimestamp(unix_s, UTC)


def _is_due(published: Publication, now: datetime) -> bool:
    parts: tuple[Signed, ...] = (published.snapshot.signed, published.timestamp.signed)
    return any(_is_past_half_life(signed, now) for signed in parts)


def _is_past_half_life(signed: Signed, now: datetime) -> bool:
    return signed.expires - now < LIFETIMES[Role(signed.type)] / 2


def _name_keys(root: Root, keys: KeyFolder) -> None:
    """Make the root metadata name exactly one key per TUF role."""
    root.keys.clear()
    for role in LIFETIMES:
        root.roles[role].keyids.clear()
        root.add_key(keys.signer(role).public_key, role)
