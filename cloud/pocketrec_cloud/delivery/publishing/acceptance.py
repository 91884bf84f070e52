# SPDX-License-Identifier: Apache-2.0
"""Takes publications over that were signed elsewhere: nothing counts unless everything is right.

The server works out itself what the next targets metadata has to say, and takes the signed
one only if it says just that. So a publisher with a token, but without the offline key, can
publish nothing, and one with both can publish nothing that the server did not look at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from pocketrec.errors import ArtifactError, ConfigError, RejectedError, RollbackError
from pocketrec_cloud.delivery.publishing.bundles import check_bundle, check_items, put_bundle
from pocketrec_cloud.delivery.publishing.inbox import Inbox
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.layout import target_name
from pocketrec_cloud.delivery.publishing.repository import to_datetime
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.publishing.targets import (
    find_line,
    list_bundle,
    manifest_target,
    promote_listed,
    withdraw_listed,
)
from pocketrec_cloud.delivery.publishing.tuf_editor import TufEditor
from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.bundle import (
    MANIFEST_FILE,
    PARTS_FOLDER,
    BundleFolder,
    decode_manifest,
    encode_manifest,
)
from pocketrec_quantization.plan import DIGEST_BYTES

__all__ = ["MAX_PUBLICATION_BYTES", "PublishingDesk", "accept_bundle", "accept_change"]

MAX_PUBLICATION_BYTES = 2 * 2**30
"""All files of one publication. Source: our choice; they lie in the temporary folder first."""

_INVALID = "INVALID_ARGUMENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishingDesk:
    """What the admin calls about publications work on; safe to share between threads.

    Args:
        storage: Holds the repository.
        keys: Folder with the snapshot and timestamp keys.
        max_bytes: Of all files of one publication.
    """

    storage: Storage
    keys: Path
    max_bytes: int = MAX_PUBLICATION_BYTES


def accept_bundle(
    desk: PublishingDesk, inbox: Inbox, order: pb.PublicationOrder, now_s: float
) -> ModelRecord:
    """Publish a bundle whose targets metadata was signed elsewhere.

    Args:
        desk: What to work on.
        inbox: The files that came, whole.
        order: What to do with them.
        now_s: Unix seconds.

    Returns:
        What was recorded about the bundle.

    Raises:
        RejectedError: Something does not hold; with the code ABORTED another publication came
            first, and all of it may be tried again on top of that one.
        StoreError: The database fails, or another process writes to the store.
        ArtifactError: The store's metadata is damaged.
        OSError: A file cannot be read or written.
    """
    signed = _read_targets(order)
    with _blaming_the_caller():
        bundle = _assemble(desk, inbox, order)
        sensitivity = inbox.read(order.sensitivity_sha256, "sensitivity_sha256")
        planner = None
        if order.planner_sha256:
            planner = inbox.read(order.planner_sha256, "planner_sha256")
        record = check_bundle(bundle, sensitivity, planner)
    current = signed.signed.targets.get(manifest_target(record.model_name))
    is_candidate = current is None or current.hashes.get("sha256") != bundle.digest.hex()
    manifest = encode_manifest(bundle.manifest)
    with desk.storage.writing():
        editor = TufEditor(desk.storage.artifacts, KeyFolder(desk.keys), to_datetime(now_s))
        _verify(editor, signed, to_datetime(now_s))
        with _refusing_rollbacks():
            check_items(desk.storage.artifacts, editor.targets(), bundle.manifest)
        _require_equal(
            editor,
            signed,
            lambda targets: list_bundle(targets, manifest, is_candidate=is_candidate),
        )
        put_bundle(desk.storage, record, bundle, sensitivity, planner)
        _seal(editor, order, signed)
    return record


def accept_change(
    desk: PublishingDesk, order: pb.PublicationOrder, now_s: float
) -> tuple[str, int]:
    """Promote or withdraw a published bundle, as the signed targets metadata says.

    Args:
        desk: What to work on.
        order: What to do; it names no sensitivities.
        now_s: Unix seconds.

    Returns:
        ``"promote"`` or ``"withdraw"``, and the bundle's version.

    Raises:
        RejectedError: Something does not hold; see ``accept_bundle``.
        StoreError: The database fails, or another process writes to the store.
        ArtifactError: The store's metadata is damaged.
        OSError: A file cannot be read or written.
    """
    signed = _read_targets(order)
    name, digest = order.model_name, order.bundle_digest
    current = signed.signed.targets.get(manifest_target(name))
    is_current = current is not None and current.hashes.get("sha256") == digest.hex()
    change = promote_listed if is_current else withdraw_listed
    with desk.storage.writing():
        editor = TufEditor(desk.storage.artifacts, KeyFolder(desk.keys), to_datetime(now_s))
        _verify(editor, signed, to_datetime(now_s))
        with _blaming_the_caller():
            version = find_line(editor.targets(), name).find(digest).version
        _require_equal(editor, signed, lambda targets: change(targets, name, digest))
        _seal(editor, order, signed)
    return ("promote" if is_current else "withdraw"), version


@contextmanager
def _refusing_rollbacks() -> Iterator[None]:
    """Tell the caller that the publication is older than what is published."""
    try:
        yield
    except RollbackError as exc:
        raise RejectedError(str(exc), code="FAILED_PRECONDITION") from exc


@contextmanager
def _blaming_the_caller() -> Iterator[None]:
    """Turn what a check says of the publication into a refusal."""
    try:
        with _refusing_rollbacks():
            yield
    except (ArtifactError, ConfigError) as exc:
        raise RejectedError(str(exc), code=_INVALID) from exc


def _read_targets(order: pb.PublicationOrder) -> Metadata[Targets]:
    """Return the signed targets metadata; its signature is not looked at yet."""
    if len(order.bundle_digest) != DIGEST_BYTES:
        raise RejectedError(
            f"expected a bundle_digest of {DIGEST_BYTES} bytes, got {len(order.bundle_digest)}",
            code=_INVALID,
        )
    try:
        return Metadata[Targets].from_bytes(order.targets)
    except DeserializationError as exc:
        raise RejectedError("targets: expected TUF targets metadata", code=_INVALID) from exc


def _assemble(desk: PublishingDesk, inbox: Inbox, order: pb.PublicationOrder) -> BundleFolder:
    """Make a bundle folder of what was sent, and of what the server has."""
    manifest = inbox.read(order.bundle_digest, "bundle_digest")
    decoded = decode_manifest(manifest)
    if decoded.model_name != order.model_name:
        raise RejectedError(
            f"model_name: the manifest is of {decoded.model_name!r}, the order says "
            f"{order.model_name[:64]!r}",
            code=_INVALID,
        )
    for part in decoded.parts:
        if not inbox.holds(part.sha256):
            try:
                content = desk.storage.artifacts.read(target_name(part.sha256.hex()))
            except FileNotFoundError as exc:
                raise RejectedError(
                    f"part {part.name!r} ({part.sha256.hex()}) is not here; send it", code=_INVALID
                ) from exc
            (inbox.folder / PARTS_FOLDER / part.sha256.hex()).write_bytes(content)
    (inbox.folder / MANIFEST_FILE).write_bytes(manifest)
    return BundleFolder.open(inbox.folder)


def _verify(editor: TufEditor, signed: Metadata[Targets], now: datetime) -> None:
    """Refuse metadata that the targets key did not sign, on top of the current ones."""
    root: Root = editor.root()
    try:
        root.verify_delegate("targets", signed.signed_bytes, signed.signatures)
    except UnsignedMetadataError as exc:
        raise RejectedError(
            "targets: not signed with the targets key that the root metadata names",
            code="PERMISSION_DENIED",
        ) from exc
    current = editor.targets().version
    if signed.signed.version != current + 1:
        raise RejectedError(
            f"targets: expected version {current + 1}, got {signed.signed.version}; another "
            "publication came first: sign on top of that one",
            code="ABORTED",
        )
    if signed.signed.expires <= now:
        raise RejectedError("targets: expired already; look at the clocks", code=_INVALID)


def _require_equal(
    editor: TufEditor, signed: Metadata[Targets], edit: Callable[[Targets], None]
) -> None:
    """Refuse metadata that says anything else than what follows from the current ones."""
    expected = copy.deepcopy(editor.targets())
    with _blaming_the_caller():
        edit(expected)
    expected.version, expected.expires = signed.signed.version, signed.signed.expires
    if expected != signed.signed:
        raise RejectedError(
            "targets: expected what is published now with this one change; "
            "do publisher and server run the same release?",
            code=_INVALID,
        )


def _seal(editor: TufEditor, order: pb.PublicationOrder, signed: Metadata[Targets]) -> None:
    editor.adopt_targets(order.targets, signed)
    editor.seal()
    editor.commit()
