# SPDX-License-Identifier: Apache-2.0
"""Publishes through a server: the offline key stays here, the files and the signature go there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from pocketrec.errors import ConfigError, IntegrityError, MalformedArtifactError, ServiceError
from pocketrec_cloud.delivery.admin.client import AdminClient
from pocketrec_cloud.delivery.publishing.bundles import check_bundle
from pocketrec_cloud.delivery.publishing.inbox import MAX_PIECE_BYTES
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.repository import to_datetime
from pocketrec_cloud.delivery.publishing.targets import list_bundle, promote_listed, withdraw_listed
from pocketrec_cloud.delivery.publishing.tuf_editor import sign_next
from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.bundle import BundleFolder, encode_manifest

__all__ = ["RemotePublisher"]

_MAX_TRIES = 3
_DEADLINE_S = 3600.0


class RemotePublisher:
    """Signs publications with the targets key and hands them to a server.

    The server's metadata is signed on top of only when the same key signed it: a server that
    was taken over cannot have anything signed that was not published.

    Args:
        client: A connection to the admin service.
        keys: Folder with ``offline/targets.pem``.
        clock: Unix seconds.
        deadline_s: Seconds that sending and publishing may take.

    Raises:
        ConfigError: The key is absent.
        OSError: It cannot be read.
    """

    def __init__(
        self,
        client: AdminClient,
        keys: Path,
        *,
        clock: Callable[[], float] = time.time,
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        self._client = client
        self._signer = KeyFolder(keys).signer(Role.TARGETS)
        self._clock = clock
        self._deadline_s = deadline_s

    def publish(
        self,
        bundle: BundleFolder,
        sensitivity: bytes,
        *,
        planner: bytes | None = None,
        is_candidate: bool = False,
    ) -> ModelRecord:
        """Publish a bundle; see ``bundles.publish_bundle``.

        Args:
            bundle: What devices get.
            sensitivity: What the planners need; it stays on the server.
            planner: A personal planner; it stays on the server, too.
            is_candidate: Whether the current bundle stays what it is.

        Returns:
            What the server recorded about the bundle.

        Raises:
            RollbackError: The bundle's version is not above every published one of its line.
            IncompatibleArtifactError: The planner is not for this bundle.
            IntegrityError: What the server publishes was not signed with this key.
            ArtifactError: The bundle, the sensitivities or the planner are damaged.
            ConfigError: The sensitivities are for another model, or the server's root names
                another targets key.
            ServiceError: The server refused, or could not be asked.
            OSError: A file cannot be read.
        """
        record = check_bundle(bundle, sensitivity, planner)
        manifest = encode_manifest(bundle.manifest)
        order = pb.PublicationOrder(
            model_name=record.model_name,
            bundle_digest=record.bundle_digest,
            sensitivity_sha256=hashlib.sha256(sensitivity).digest(),
            planner_sha256=b"" if planner is None else hashlib.sha256(planner).digest(),
        )
        files: dict[bytes, Callable[[], bytes]] = {
            order.bundle_digest: lambda: manifest,
            order.sensitivity_sha256: lambda: sensitivity,
        }
        if planner is not None:
            files[order.planner_sha256] = lambda: planner
        parts = {part.sha256: part.name for part in bundle.manifest.parts}

        def needed(published: Targets) -> dict[bytes, Callable[[], bytes]]:
            there = {target.hashes["sha256"] for target in published.targets.values()}
            absent = {
                sha256: lambda name=name: bundle.read(name)
                for sha256, name in parts.items()
                if sha256.hex() not in there
            }
            return files | absent

        self._send(
            order,
            lambda targets: list_bundle(targets, manifest, is_candidate=is_candidate),
            needed,
        )
        return record

    def promote(self, model_name: str, digest: bytes) -> None:
        """Make a candidate current; see ``bundles.promote_bundle``.

        Args:
            model_name: Model line.
            digest: SHA-256 of the candidate's manifest, 32 bytes.

        Raises:
            ConfigError: It is not published, or the server's root names another targets key.
            RollbackError: It is not above the current version.
            IntegrityError: What the server publishes was not signed with this key.
            ServiceError: The server refused, or could not be asked.
        """
        self._change(model_name, digest, promote_listed)

    def withdraw(self, model_name: str, digest: bytes) -> None:
        """Stop vouching for a bundle; see ``bundles.withdraw_bundle``.

        Args:
            model_name: Model line.
            digest: SHA-256 of its manifest, 32 bytes.

        Raises:
            ConfigError: It is not published, it is the current one, or the server's root names
                another targets key.
            IntegrityError: What the server publishes was not signed with this key.
            ServiceError: The server refused, or could not be asked.
        """
        self._change(model_name, digest, withdraw_listed)

    def _change(
        self, model_name: str, digest: bytes, change: Callable[[Targets, str, bytes], None]
    ) -> None:
        order = pb.PublicationOrder(model_name=model_name, bundle_digest=digest)
        self._send(order, lambda targets: change(targets, model_name, digest), lambda _: {})

    def _send(
        self,
        order: pb.PublicationOrder,
        edit: Callable[[Targets], None],
        needed: Callable[[Targets], Mapping[bytes, Callable[[], bytes]]],
    ) -> None:
        """Sign on top of what is published, and send; again if somebody else was faster."""
        for tries_left in reversed(range(_MAX_TRIES)):
            targets = self._published()
            files = needed(targets.signed)
            edit(targets.signed)
            sign_next(targets, self._signer, to_datetime(self._clock()))
            signed = pb.PublicationOrder()
            signed.CopyFrom(order)
            signed.targets = targets.to_bytes()
            try:
                self._client.send(
                    self._client.stub.PublishBundle,
                    _messages(files, signed),
                    deadline_s=self._deadline_s,
                )
            except ServiceError as exc:
                if exc.code != "ABORTED" or not tries_left:
                    raise
            else:
                return

    def _published(self) -> Metadata[Targets]:
        """Return what the server publishes, if our key vouches for it."""
        answer = self._client.call(self._client.stub.GetPublication, pb.GetPublicationRequest())
        try:
            root = Metadata[Root].from_bytes(answer.root)
            targets = Metadata[Targets].from_bytes(answer.targets)
        except DeserializationError as exc:
            raise MalformedArtifactError(
                "expected TUF metadata from the server", field="metadata"
            ) from exc
        if self._signer.public_key.keyid not in root.signed.roles["targets"].keyids:
            raise ConfigError(
                "the server's root metadata names another targets key; name the folder of that "
                "deployment with --keys"
            )
        _require_ours(targets, self._signer)
        return targets


def _require_ours(targets: Metadata[Targets], signer: CryptoSigner) -> None:
    """Refuse to sign on top of what we did not sign ourselves."""
    key = signer.public_key
    signature = targets.signatures.get(key.keyid)
    try:
        if signature is not None:
            key.verify_signature(signature, targets.signed_bytes)
            return
    except UnverifiedSignatureError:
        pass
    raise IntegrityError(
        "what the server publishes was not signed with the targets key in the folder; look at the "
        "server before you sign anything for it"
    )


def _messages(
    files: Mapping[bytes, Callable[[], bytes]], order: pb.PublicationOrder
) -> Iterator[pb.PublishBundleRequest]:
    """Yield the pieces of every file, one file in memory at a time, and the order last."""
    for sha256, read in files.items():
        content = read()
        for offset in range(0, max(len(content), 1), MAX_PIECE_BYTES):
            piece = pb.FilePiece(
                sha256=sha256,
                offset_bytes=offset,
                content=content[offset : offset + MAX_PIECE_BYTES],
            )
            yield pb.PublishBundleRequest(piece=piece)
    yield pb.PublishBundleRequest(order=order)
