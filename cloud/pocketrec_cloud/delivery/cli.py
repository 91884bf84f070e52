# SPDX-License-Identifier: Apache-2.0
"""The commands ``keys init``, ``keys renew`` and ``bundle publish``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from pocketrec.console import emit, json_option
from pocketrec_cloud.delivery.keys import KeyFolder
from pocketrec_cloud.delivery.repository import (
    create_repository,
    publish_bundle,
    renew_repository,
)
from pocketrec_quantization.bundle import BundleFolder

__all__ = ["bundle_publish", "keys_init", "keys_renew"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_store_option = click.option(
    "--store", type=_FOLDER, required=True, help="Folder of the repository."
)
_keys_option = click.option(
    "--keys", type=_FOLDER, required=True, help="Folder with offline/ and online/ keys."
)


@click.command()
@_store_option
@_keys_option
@json_option
def keys_init(store: Path, keys: Path, json_path: str | None) -> None:
    """Make the signing keys and an empty repository signed with them.

    Keys that exist already are used as they are. The root metadata it names is the trust
    anchor: build it into the app. Move KEYS/offline away from the server.
    """
    folder = KeyFolder(keys)
    if not folder.is_complete():
        folder.create()
    root = create_repository(store, keys)
    path = store / "metadata" / "1.root.json"
    result = {"root": path, "root_sha256": hashlib.sha256(root).hexdigest(), "keys": keys}
    emit(
        result,
        render=lambda console: console.print(
            f"root of trust: {path}", soft_wrap=True, markup=False
        ),
        json_path=json_path,
    )


@click.command()
@_store_option
@_keys_option
@json_option
def keys_renew(store: Path, keys: Path, json_path: str | None) -> None:
    """Sign all metadata again with the keys that lie in the folder now.

    Once a year, or after replacing a key other than the root's.
    """
    version = renew_repository(store, keys)
    emit(
        {"root_version": version},
        render=lambda console: console.print(f"root metadata is now version {version}"),
        json_path=json_path,
    )


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_store_option
@_keys_option
@click.option(
    "--sensitivity",
    type=_FILE,
    required=True,
    help="What the planners need to know of this model; stays on the server.",
)
@click.option("--planner", type=_FILE, help="Its personal planner; stays on the server.")
@json_option
def bundle_publish(
    *,
    bundle: Path,
    store: Path,
    keys: Path,
    sensitivity: Path,
    planner: Path | None,
    json_path: str | None,
) -> None:
    """Sign the folder BUNDLE and make it the current bundle of its model.

    With a personal planner, devices that send a user embedding get plans of their own.
    """
    record = publish_bundle(
        store,
        keys,
        BundleFolder.open(bundle),
        sensitivity.read_bytes(),
        planner=None if planner is None else planner.read_bytes(),
    )
    result = {
        "model": record.model_name,
        "version": record.version,
        "bundle_digest": record.bundle_digest,
        "model_digest": record.model_digest,
        "is_personal": planner is not None,
    }
    emit(
        result,
        render=lambda console: console.print(
            f"published {record.model_name} version {record.version}, "
            f"bundle {record.bundle_digest.hex()}",
            soft_wrap=True,
        ),
        json_path=json_path,
    )
