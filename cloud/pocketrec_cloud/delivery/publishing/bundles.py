# SPDX-License-Identifier: Apache-2.0
"""Publishes bundles, makes candidates current, and withdraws them.

Every change goes through a ``TufEditor`` under the store's lock and is written in this order:
contents, what the planners need, the database row, metadata, and ``timestamp.json`` last. An
interruption anywhere leaves the old publication in force, and the call can simply be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tuf.api.metadata import Targets

from pocketrec.errors import RollbackError
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.layout import (
    personal_planner_name,
    sensitivity_name,
    target_name,
)
from pocketrec_cloud.delivery.publishing.repository import put_content, to_datetime
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.publishing.targets import (
    find_line,
    list_bundle,
    promote_listed,
    withdraw_listed,
)
from pocketrec_cloud.delivery.publishing.tuf_editor import TufEditor
from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_quantization.bundle import (
    FROZEN,
    ITEMS,
    BundleFolder,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.personal_fit import check_planner_fits
from pocketrec_quantization.planners import GlobalPlanner, sensitivity_from_bytes

__all__ = [
    "check_bundle",
    "check_items",
    "promote_bundle",
    "publish_bundle",
    "put_bundle",
    "withdraw_bundle",
]


def publish_bundle(
    storage: Storage,
    keys: Path,
    bundle: BundleFolder,
    sensitivity: bytes,
    *,
    planner: bytes | None = None,
    is_candidate: bool = False,
    clock: Callable[[], float] = time.time,
) -> ModelRecord:
    """Vouch for a bundle, and make it the current one of its model line.

    Args:
        storage: Holds the repository.
        keys: Folder with the targets, snapshot and timestamp keys.
        bundle: What devices get.
        sensitivity: What the planners need (``planners.sensitivity_to_bytes``); it stays
            on the server.
        planner: A personal planner (``PersonalPlanner.to_bytes``), trained with this
            bundle's weights and extractor; it stays on the server, too.
        is_candidate: Whether the current bundle stays what it is: only devices that a
            rollout names run this one, until ``promote_bundle``.
        clock: Unix seconds.

    Returns:
        What was recorded about the bundle.

    Raises:
        RollbackError: The bundle's version is not above every published one of its line, or
            its item table is older than a published one of the same weights.
        IncompatibleArtifactError: The planner is not for this bundle.
        ArtifactError: The bundle, the sensitivities or the planner are damaged.
        ConfigError: The sensitivities are for another model, or a key is absent.
        StoreError: There is no repository, or another process writes to it.
        OSError: A file cannot be written.
    """
    record = check_bundle(bundle, sensitivity, planner)
    with storage.writing():
        editor = TufEditor(storage.artifacts, KeyFolder(keys), to_datetime(clock()))
        check_items(storage.artifacts, editor.targets(), bundle.manifest)
        with editor.edit_targets() as targets:
            list_bundle(targets, encode_manifest(bundle.manifest), is_candidate=is_candidate)
        put_bundle(storage, record, bundle, sensitivity, planner)
        editor.seal()
        editor.commit()
    return record


def promote_bundle(
    storage: Storage,
    keys: Path,
    model_name: str,
    digest: bytes,
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Make a candidate the current bundle of its model line.

    Args:
        storage: Holds the repository.
        keys: Folder with the targets, snapshot and timestamp keys.
        model_name: Model line.
        digest: SHA-256 of the candidate's manifest, 32 bytes.
        clock: Unix seconds.

    Raises:
        ConfigError: It is not published, or a key is absent.
        RollbackError: It is not above the current version.
        ArtifactError: The store's metadata is damaged.
        StoreError: There is no repository, or another process writes to it.
        OSError: A file cannot be written.
    """
    _change(storage, keys, clock, lambda targets: promote_listed(targets, model_name, digest))


def withdraw_bundle(
    storage: Storage,
    keys: Path,
    model_name: str,
    digest: bytes,
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Stop vouching for a bundle that is not the current one.

    Devices that run it keep it until they are given another; its version is not used again.

    Args:
        storage: Holds the repository.
        keys: Folder with the targets, snapshot and timestamp keys.
        model_name: Model line.
        digest: SHA-256 of its manifest, 32 bytes.
        clock: Unix seconds.

    Raises:
        ConfigError: It is not published, it is the current one, or a key is absent.
        ArtifactError: The store's metadata is damaged.
        StoreError: There is no repository, or another process writes to it.
        OSError: A file cannot be written.
    """
    _change(storage, keys, clock, lambda targets: withdraw_listed(targets, model_name, digest))


def check_bundle(bundle: BundleFolder, sensitivity: bytes, planner: bytes | None) -> ModelRecord:
    """Refuse what no device or planner could use, before anything is written.

    Raises:
        IncompatibleArtifactError: The planner is not for this bundle.
        ArtifactError: The bundle, the sensitivities or the planner are damaged.
        ConfigError: The sensitivities are for another model.
        OSError: A file of the bundle cannot be read.
    """
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


def check_items(artifacts: ArtifactStore, targets: Targets, offered: Manifest) -> None:
    """Refuse what devices would: for the same weights, an item table that is older.

    Args:
        artifacts: Where published manifests lie.
        targets: What is published.
        offered: The manifest of the next bundle.

    Raises:
        RollbackError: The item table's version is not above those published with the same
            weights, nor the same table.
        ArtifactError: A published manifest is damaged.
        OSError: It cannot be read.
    """
    for bundle in reversed(find_line(targets, offered.model_name).bundles):
        published = decode_manifest(artifacts.read(target_name(bundle.digest.hex())))
        if offered.part(FROZEN) != published.part(FROZEN):
            continue
        installed, version = published.items.version, offered.items.version
        is_same = offered.part(ITEMS) == published.part(ITEMS)
        if version < installed or (version == installed and not is_same):
            raise RollbackError(
                f"model {offered.model_name!r} is published with version {installed} of its item "
                f"table, and devices refuse another one of version {version}; give it a higher "
                "version",
                installed=installed,
                offered=version,
            )


def put_bundle(
    storage: Storage,
    record: ModelRecord,
    bundle: BundleFolder,
    sensitivity: bytes,
    planner: bytes | None,
) -> None:
    """Store all that belongs to a bundle; nobody is told of it yet.

    Raises:
        IntegrityError: A part is not what the manifest promises.
        StoreError: The database fails.
        OSError: A file cannot be read or written.
    """
    artifacts = storage.artifacts
    put_content(artifacts, bundle.digest.hex(), encode_manifest(bundle.manifest))
    for part in bundle.manifest.parts:
        put_content(artifacts, part.sha256.hex(), bundle.read(part.name))
    artifacts.write(sensitivity_name(record.model_digest), sensitivity)
    if planner is not None:
        artifacts.write(personal_planner_name(record.bundle_digest), planner)
    storage.database.record_model(record)


def _change(
    storage: Storage, keys: Path, clock: Callable[[], float], edit: Callable[[Targets], None]
) -> None:
    with storage.writing():
        editor = TufEditor(storage.artifacts, KeyFolder(keys), to_datetime(clock()))
        with editor.edit_targets() as targets:
            edit(targets)
        editor.seal()
        editor.commit()
