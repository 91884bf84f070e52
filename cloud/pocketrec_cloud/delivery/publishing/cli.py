# SPDX-License-Identifier: Apache-2.0
"""The commands ``bundle publish``, ``bundle promote`` and ``bundle withdraw``.

Each works on a store directly, with all keys, or through a server, with the offline keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypedDict, TypeVar, Unpack

import click

from pocketrec.console import emit, json_option
from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.admin.options import optional_server_options
from pocketrec_cloud.delivery.publishing.bundles import (
    promote_bundle,
    publish_bundle,
    withdraw_bundle,
)
from pocketrec_cloud.delivery.publishing.remote import RemotePublisher
from pocketrec_cloud.delivery.publishing.storage import Storage, open_storage
from pocketrec_cloud.delivery.publishing.storage_options import (
    database_option,
    keys_option,
    store_option,
)
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.plan import DIGEST_BYTES

__all__ = ["bundle_promote", "bundle_publish", "bundle_withdraw"]

P = ParamSpec("P")
R = TypeVar("R")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_keys = keys_option("Folder with offline/ keys; with --store, with online/ keys as well.")


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@store_option(is_required=False)
@database_option
@optional_server_options
@_keys
@click.option(
    "--sensitivity",
    type=_FILE,
    required=True,
    help="What the planners need to know of this model; stays on the server.",
)
@click.option("--planner", type=_FILE, help="Its personal planner; stays on the server.")
@click.option(
    "--candidate",
    "is_candidate",
    is_flag=True,
    help="Leave the current bundle as it is; a rollout, or `bundle promote`, decides.",
)
@json_option
def bundle_publish(
    *,
    bundle: Path,
    store: str | None,
    database: str,
    server: AdminEndpoint | None,
    keys: Path,
    sensitivity: Path,
    planner: Path | None,
    is_candidate: bool,
    json_path: str | None,
) -> None:
    """Sign the folder BUNDLE and make it the current bundle of its model, or a candidate.

    With a personal planner, devices that send a user embedding get plans of their own.
    """
    _require_one_place(store, server)
    content = BundleFolder.open(bundle)
    sensitivities = sensitivity.read_bytes()
    planners = None if planner is None else planner.read_bytes()
    if server is not None:
        with AdminClient(server) as client:
            record = RemotePublisher(client, keys).publish(
                content, sensitivities, planner=planners, is_candidate=is_candidate
            )
    else:
        with open_storage(store or "", database) as storage:
            record = publish_bundle(
                storage,
                keys,
                content,
                sensitivities,
                planner=planners,
                is_candidate=is_candidate,
            )
    result = {
        "model": record.model_name,
        "version": record.version,
        "bundle_digest": record.bundle_digest,
        "model_digest": record.model_digest,
        "is_personal": planner is not None,
        "is_candidate": is_candidate,
    }
    what = "candidate" if is_candidate else "version"
    emit(
        result,
        render=lambda console: console.print(
            f"published {record.model_name} {what} {record.version}, "
            f"bundle {record.bundle_digest.hex()}",
            soft_wrap=True,
        ),
        json_path=json_path,
    )


class _Change(TypedDict):
    """What promoting and withdrawing are asked."""

    model: str
    digest: str
    store: str | None
    database: str
    server: AdminEndpoint | None
    keys: Path
    json_path: str | None


def _change_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add what promoting and withdrawing have in common."""
    model = click.argument("model")
    digest = click.argument("digest", metavar="BUNDLE_DIGEST")
    store = store_option(is_required=False)
    with_server = optional_server_options(_keys(json_option(command)))
    return model(digest(store(database_option(with_server))))


@click.command()
@_change_options
def bundle_promote(**options: Unpack[_Change]) -> None:
    """Make the candidate BUNDLE_DIGEST the current bundle of MODEL."""
    _change(promote_bundle, RemotePublisher.promote, "is current now", **options)


@click.command()
@_change_options
def bundle_withdraw(**options: Unpack[_Change]) -> None:
    """Stop vouching for the bundle BUNDLE_DIGEST of MODEL, which is not the current one."""
    _change(withdraw_bundle, RemotePublisher.withdraw, "is withdrawn", **options)


def _change(
    here: Callable[[Storage, Path, str, bytes], None],
    through_a_server: Callable[[RemotePublisher, str, bytes], None],
    outcome: str,
    **options: Unpack[_Change],
) -> None:
    """Change what is published, in one place or the other, and say so."""
    model, digest, server = options["model"], options["digest"], options["server"]
    _require_one_place(options["store"], server)
    sha256 = _digest(digest)
    if server is not None:
        with AdminClient(server) as client:
            through_a_server(RemotePublisher(client, options["keys"]), model, sha256)
    else:
        with open_storage(options["store"] or "", options["database"]) as storage:
            here(storage, options["keys"], model, sha256)
    emit(
        {"model": model, "bundle_digest": digest},
        render=lambda console: console.print(f"{model}: bundle {digest} {outcome}", soft_wrap=True),
        json_path=options["json_path"],
    )


def _require_one_place(store: str | None, server: AdminEndpoint | None) -> None:
    if (store is None) == (server is None):
        raise ConfigError("expected either --store or --server")


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise ConfigError(
            f"expected a bundle digest of {2 * DIGEST_BYTES} hex digits, got {text!r}"
        )
    return digest
