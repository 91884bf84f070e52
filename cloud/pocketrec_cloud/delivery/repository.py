# SPDX-License-Identifier: Apache-2.0
"""Publishes: makes the repository, puts bundles into it, keeps its metadata alive.

Every function works under the store's lock and writes in this order: contents, what the
planners need, the database row, metadata, and ``timestamp.json`` last. An interruption
anywhere leaves the old publication in force, and the call can simply be repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from tuf.api.metadata import Root, Signed

from pocketrec.errors import RollbackError, StoreError, StoreLockedError
from pocketrec.files import write_atomically
from pocketrec_cloud.delivery.keys import KeyFolder, Role
from pocketrec_cloud.delivery.layout import StoreLayout
from pocketrec_cloud.delivery.publication import Publication, read_publication
from pocketrec_cloud.delivery.store import ModelRecord, SqlStore
from pocketrec_cloud.delivery.targets import (
    DIRECTOR_TARGET,
    manifest_target,
    part_target,
    published_manifest,
    put_content,
    targets_of_others,
)
from pocketrec_cloud.delivery.tuf_editor import LIFETIMES, TufEditor, Writer
from pocketrec_quantization.bundle import (
    FROZEN,
    ITEMS,
    BundleFolder,
    Manifest,
    encode_manifest,
)
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.personal_fit import check_planner_fits
from pocketrec_quantization.planners import GlobalPlanner, sensitivity_from_bytes

__all__ = ["create_repository", "publish_bundle", "refresh_timestamp", "renew_repository"]

_LOCK_TIMEOUT_S = 30.0


def create_repository(
    store: Path,
    keys: Path,
    *,
    clock: Callable[[], float] = time.time,
    write: Writer = write_atomically,
) -> bytes:
    """Sign an empty repository.

    Args:
        store: Folder to fill; made when missing.
        keys: Folder with all five keys.
        clock: Unix seconds.
        write: Puts bytes at a path atomically.

    Returns:
        The root metadata: the trust anchor an app is built with.

    Raises:
        StoreError: The store holds a repository already, or another process writes to it.
        ConfigError: A key is absent.
        OSError: A file cannot be written.
    """
    layout, folder = StoreLayout(store), KeyFolder(keys)
    with _locked(layout):
        if layout.timestamp.exists():
            raise StoreError(f"{str(store)!r} holds a repository already; publish into that one")
        SqlStore.open(layout.database).close()
        editor = TufEditor(layout, folder, _now(clock), fresh=True)
        with editor.edit_root() as root:
            _name_keys(root, folder)
        with editor.edit_targets() as targets:
            targets.targets[DIRECTOR_TARGET] = put_content(
                layout, DIRECTOR_TARGET, _director_json(folder), write
            )
        editor.seal()
        editor.commit(write)
    return (layout.metadata / "1.root.json").read_bytes()


def publish_bundle(
    store: Path,
    keys: Path,
    bundle: BundleFolder,
    sensitivity: bytes,
    *,
    planner: bytes | None = None,
    clock: Callable[[], float] = time.time,
    write: Writer = write_atomically,
) -> ModelRecord:
    """Make a bundle the current one of its model line.

    Args:
        store: Folder of the repository.
        keys: Folder with the targets, snapshot and timestamp keys.
        bundle: What devices get.
        sensitivity: What the planners need (``planners.sensitivity_to_bytes``); it stays
            on the server.
        planner: A personal planner (``PersonalPlanner.to_bytes``), trained with this
            bundle's weights and extractor; it stays on the server, too.
        clock: Unix seconds.
        write: Puts bytes at a path atomically.

    Returns:
        What was recorded about the bundle.

    Raises:
        RollbackError: The bundle's version is not above the published one, or its item
            table is older than the published one of the same weights.
        IncompatibleArtifactError: The planner is not for this bundle.
        ArtifactError: The bundle, the sensitivities or the planner are damaged.
        ConfigError: The sensitivities are for another model, or a key is absent.
        StoreError: There is no repository, or another process writes to it.
        OSError: A file cannot be written.
    """
    layout = StoreLayout(store)
    record = _check_bundle(bundle, sensitivity, planner)
    with _locked(layout):
        editor = TufEditor(layout, KeyFolder(keys), _now(clock))
        published = read_publication(layout)
        _check_version(layout, published, bundle.manifest)
        with editor.edit_targets() as targets:
            targets.targets = targets_of_others(layout, published, record.model_name)
            path = manifest_target(record.model_name)
            content = encode_manifest(bundle.manifest)
            targets.targets[path] = put_content(layout, path, content, write)
            for part in bundle.manifest.parts:
                path = part_target(part.sha256)
                targets.targets[path] = put_content(layout, path, bundle.read(part.name), write)
        write(layout.sensitivity(record.model_digest), sensitivity)
        if planner is not None:
            write(layout.personal_planner(record.bundle_digest), planner)
        with closing(SqlStore.open(layout.database)) as database:
            database.record_model(record)
        editor.seal()
        editor.commit(write)
    return record


def refresh_timestamp(store: Path, keys: Path, now_s: float) -> bool:
    """Sign the timestamp again when it is past half its life, and the snapshot likewise.

    Needs the online keys only.

    Args:
        store: Folder of the repository.
        keys: Folder with the snapshot and timestamp keys.
        now_s: Unix seconds.

    Returns:
        Whether anything was signed.

    Raises:
        StoreError: There is no repository, or another process writes to it.
        ArtifactError: The store's metadata is damaged.
        ConfigError: A key is absent.
        OSError: A file cannot be written.
    """
    layout, now = StoreLayout(store), datetime.fromtimestamp(now_s, UTC)
    with _locked(layout):
        published = read_publication(layout)
        snapshot_is_due = _is_past_half_life(published.snapshot.signed, now)
        if not snapshot_is_due and not _is_past_half_life(published.timestamp.signed, now):
            return False
        editor = TufEditor(layout, KeyFolder(keys), now)
        editor.seal(snapshot=snapshot_is_due)
        editor.commit(write_atomically)
    return True


def renew_repository(
    store: Path,
    keys: Path,
    *,
    clock: Callable[[], float] = time.time,
    write: Writer = write_atomically,
) -> int:
    """Sign everything again, naming the keys that lie in the folder now.

    Run it well before a year is over, or after replacing any key but the root's. If keys
    were replaced and it is interrupted, devices refuse to sync until it is repeated.

    Args:
        store: Folder of the repository.
        keys: Folder with all five keys.
        clock: Unix seconds.
        write: Puts bytes at a path atomically.

    Returns:
        The version of the new root metadata.

    Raises:
        StoreError: There is no repository, or another process writes to it.
        ArtifactError: The store's metadata is damaged.
        ConfigError: A key is absent.
        OSError: A file cannot be written.
    """
    layout, folder = StoreLayout(store), KeyFolder(keys)
    with _locked(layout):
        editor = TufEditor(layout, folder, _now(clock))
        with editor.edit_root() as root:
            _name_keys(root, folder)
        with editor.edit_targets() as targets:
            targets.targets[DIRECTOR_TARGET] = put_content(
                layout, DIRECTOR_TARGET, _director_json(folder), write
            )
        editor.seal()
        editor.commit(write)
        return editor.root().version


@contextmanager
def _locked(layout: StoreLayout) -> Iterator[None]:
    """Hold the store's lock, with every folder in place."""
    for path in layout.folders:
        path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(layout.lock, timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout as exc:
        raise StoreLockedError(
            f"another process has been writing to {str(layout.root)!r} for "
            f"{_LOCK_TIMEOUT_S:.0f} s; wait for it to end, then try again"
        ) from exc


def _now(clock: Callable[[], float]) -> datetime:
    return datetime.fromtimestamp(clock(), UTC)


def _is_past_half_life(signed: Signed, now: datetime) -> bool:
    return signed.expires - now < LIFETIMES[Role(signed.type)] / 2


def _name_keys(root: Root, keys: KeyFolder) -> None:
    """Make the root metadata name exactly one key per TUF role."""
    root.keys.clear()
    for role in LIFETIMES:
        root.roles[role].keyids.clear()
        root.add_key(keys.signer(role).public_key, role)


def _director_json(keys: KeyFolder) -> bytes:
    public = keys.load(Role.DIRECTOR).public
    content = {"keys": [{"key_id": public.key_id.hex(), "public_key": public.raw.hex()}]}
    return json.dumps(content).encode()


def _check_bundle(bundle: BundleFolder, sensitivity: bytes, planner: bytes | None) -> ModelRecord:
    """Refuse what no device or planner could use, before anything is written."""
    bundle.verify()
    if planner is not None:
        personal = PersonalPlanner.from_bytes(planner)
        check_planner_fits(personal, bundle.manifest, bundle.model_digest)
    GlobalPlanner(bundle.manifest.layers, sensitivity_from_bytes(sensitivity))
    return ModelRecord(
        bundle_digest=bundle.digest,
        model_digest=bundle.model_digest,
        model_name=bundle.manifest.model_name,
        version=bundle.manifest.version,
    )


def _check_version(layout: StoreLayout, published: Publication, offered: Manifest) -> None:
    """Refuse what devices would: a bundle, or for the same weights an item table, that is older."""
    file = published.files.get(manifest_target(offered.model_name))
    if file is None:
        return
    current = published_manifest(layout, file)
    if offered.version <= current.version:
        raise RollbackError(
            f"model {offered.model_name!r} is published in version {current.version}, and devices "
            f"refuse to go back to version {offered.version}; build it with a higher version",
            installed=current.version,
            offered=offered.version,
        )
    if offered.part(FROZEN) != current.part(FROZEN):
        return
    installed, version = current.items.version, offered.items.version
    is_same = offered.part(ITEMS) == current.part(ITEMS)
    if version < installed or (version == installed and not is_same):
        raise RollbackError(
            f"model {offered.model_name!r} is published with version {installed} of its item "
            f"table, and devices refuse another one of version {version}; give it a higher version",
            installed=installed,
            offered=version,
        )
