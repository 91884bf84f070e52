# SPDX-License-Identifier: Apache-2.0
"""Replaces a signing key so that devices follow: everything is signed anew, the old key kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec.signing import PublicKey
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.layout import target_name
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.publishing.repository import sign_everything, to_datetime
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.publishing.targets import DIRECTOR_TARGET
from pocketrec_cloud.delivery.publishing.tuf_editor import TufEditor

__all__ = ["Rotation", "rotate_key"]

_MAX_DIRECTOR_KEYS = 16  # devices take no longer list


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What a rotation did.

    Args:
        root_version: Of the new root metadata.
        key: Where the new key lies.
        retired: Where the old key lies now.
    """

    root_version: int
    key: Path
    retired: Path


def rotate_key(
    storage: Storage,
    keys: Path,
    role: Role,
    *,
    keep_old: bool = False,
    clock: Callable[[], float] = time.time,
) -> Rotation:
    """Replace the key of one role.

    A new root is signed by the old and the new root key, as TUF wants it, so a device that
    knows any root since it was built follows by itself. Interrupted, the call can be repeated:
    the key that was made is used again.

    Args:
        storage: Holds the repository.
        keys: Folder with all five keys.
        role: Whose key.
        keep_old: For the director's: whether the keys of before may go on signing, until
            ``renew_repository`` or the next rotation. Plans that are on their way stay good.
        clock: Unix seconds.

    Raises:
        ConfigError: A key is absent, or ``keep_old`` comes with another role than the
            director's.
        StoreError: There is no repository, or another process writes to it.
        ArtifactError: The store's metadata is damaged.
        OSError: A file cannot be written.
    """
    if keep_old and role is not Role.DIRECTOR:
        raise ConfigError(f"keep_old: only the director's old key can stay, not the {role} key's")
    present = KeyFolder(keys)
    signers = [present.signer(Role.ROOT)] if role is Role.ROOT else []
    folder = present.replacing(role)
    with storage.writing():
        editor = TufEditor(storage.artifacts, folder, to_datetime(clock()), root_signers=signers)
        directors = _directors(storage.artifacts)
        if role is Role.DIRECTOR:
            new = folder.load(role).public
            others = [key for key in directors if key != new] if keep_old else []
            directors = [new, *others][:_MAX_DIRECTOR_KEYS]
        sign_everything(editor, storage.artifacts, folder, directors)
        version = editor.root().version
    retired = folder.complete_replacement()
    return Rotation(root_version=version, key=present.path(role), retired=retired)


def _directors(artifacts: ArtifactStore) -> list[PublicKey]:
    """Return the keys that may sign plans now."""
    file = read_publication(artifacts).files[DIRECTOR_TARGET]
    try:
        entries = json.loads(artifacts.read(target_name(file.sha256)))["keys"]
        return [PublicKey(bytes.fromhex(entry["public_key"])) for entry in entries]
    except (ValueError, TypeError, KeyError) as exc:
        raise MalformedArtifactError(
            f"{artifacts.url}: expected a list of keys; restore the store from a copy",
            field=DIRECTOR_TARGET,
        ) from exc
