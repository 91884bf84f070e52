# SPDX-License-Identifier: Apache-2.0
"""The commands ``keys init``, ``keys renew`` and ``keys rotate``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from pocketrec.console import emit, json_option
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.repository import create_repository, renew_repository
from pocketrec_cloud.delivery.publishing.rotation import rotate_key
from pocketrec_cloud.delivery.publishing.storage import open_storage
from pocketrec_cloud.delivery.publishing.storage_options import (
    database_option,
    keys_option,
    store_option,
)

__all__ = ["keys_init", "keys_renew", "keys_rotate"]

_ALL_KEYS = "Folder with offline/ and online/ keys."


@click.command()
@store_option()
@database_option
@keys_option(_ALL_KEYS)
@json_option
def keys_init(*, store: str, database: str, keys: Path, json_path: str | None) -> None:
    """Make the signing keys and an empty repository signed with them.

    Keys that exist already are used as they are. The root metadata it names is the trust
    anchor: build it into the app. Move KEYS/offline away from the server.
    """
    folder = KeyFolder(keys)
    if not folder.is_complete():
        folder.create()
    with open_storage(store, database, is_new=True) as storage:
        root = create_repository(storage, keys)
        path = f"{storage.artifacts.url}/metadata/1.root.json"
    result = {"root": path, "root_sha256": hashlib.sha256(root).hexdigest(), "keys": keys}
    emit(
        result,
        render=lambda console: console.print(
            f"root of trust: {path}", soft_wrap=True, markup=False
        ),
        json_path=json_path,
    )


@click.command()
@store_option()
@database_option
@keys_option(_ALL_KEYS)
@json_option
def keys_renew(*, store: str, database: str, keys: Path, json_path: str | None) -> None:
    """Sign all metadata again with the keys that lie in the folder now.

    Once a year. It also ends the time that `keys rotate --keep-old` gave an old director key.
    """
    with open_storage(store, database) as storage:
        version = renew_repository(storage, keys)
    emit(
        {"root_version": version},
        render=lambda console: console.print(f"root metadata is now version {version}"),
        json_path=json_path,
    )


@click.command()
@store_option()
@database_option
@keys_option(_ALL_KEYS)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="Whose key to replace.",
)
@click.option(
    "--keep-old",
    is_flag=True,
    help="Director only: plans that the old key signed stay good, until `keys renew`.",
)
@json_option
def keys_rotate(
    *, store: str, database: str, keys: Path, role: str, keep_old: bool, json_path: str | None
) -> None:
    """Replace one key by a new one, and sign everything again; devices follow by themselves.

    The old key goes to KEYS/retired. A new key of a server's has to be copied to KEYS/online
    there; for the director's, restart the server.
    """
    with open_storage(store, database) as storage:
        done = rotate_key(storage, keys, Role(role), keep_old=keep_old)
    result = {"root_version": done.root_version, "key": done.key, "retired": done.retired}
    copy = "" if Role(role).is_offline else "; copy it to every server"
    emit(
        result,
        render=lambda console: console.print(
            f"new {role} key: {done.key}{copy}\nold one: {done.retired}\n"
            f"root metadata is now version {done.root_version}",
            soft_wrap=True,
            markup=False,
        ),
        json_path=json_path,
    )
