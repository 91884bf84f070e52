# SPDX-License-Identifier: Apache-2.0
"""The admin calls about publications: what to sign on top of, and what was signed."""

from __future__ import annotations

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService, write_audit
from pocketrec_cloud.delivery.publishing.acceptance import accept_bundle, accept_change
from pocketrec_cloud.delivery.publishing.inbox import Inbox
from pocketrec_cloud.delivery.publishing.publication import latest_root, read_publication
from pocketrec_cloud.delivery.publishing.targets import find_line
from pocketrec_proto.v1 import admin_service_pb2 as pb

__all__ = ["get_publication", "publish_bundle", "receive"]


def get_publication(
    service: AdminService, request: pb.GetPublicationRequest, admin: AdminIdentity
) -> pb.GetPublicationResponse:
    """Return the newest root and the current targets metadata.

    Raises:
        StoreError: The store has no repository.
        ArtifactError: The store's metadata is damaged.
        OSError: A file cannot be read.
    """
    del request, admin  # there is one publication, for everybody
    artifacts = service.publishing.storage.artifacts
    return pb.GetPublicationResponse(
        root=latest_root(artifacts).to_bytes(),
        targets=read_publication(artifacts).targets.to_bytes(),
    )


def receive(inbox: Inbox, message: pb.PublishBundleRequest) -> pb.PublicationOrder | None:
    """Put a piece into the inbox, or return the order that comes last.

    Raises:
        RejectedError: The message says nothing, or the piece cannot be taken.
        OSError: The piece cannot be written.
    """
    step = message.WhichOneof("step")
    if step == "order":
        return message.order
    if step is None:
        raise RejectedError("expected a piece or the order", code="INVALID_ARGUMENT")
    inbox.add(message.piece)
    return None


def publish_bundle(
    service: AdminService, sent: tuple[Inbox, pb.PublicationOrder], admin: AdminIdentity
) -> pb.PublishBundleResponse:
    """Publish what was sent, or promote or withdraw what is published already.

    Raises:
        RejectedError: Something does not hold; with the code ABORTED another publication came
            first.
        StoreError: The database fails, or another process writes to the store.
        ArtifactError: The store's metadata is damaged.
        OSError: A file cannot be read or written.
    """
    inbox, order = sent
    if order.sensitivity_sha256:
        version = accept_bundle(service.publishing, inbox, order, service.clock()).version
        action = "publish"
    else:
        action, version = accept_change(service.publishing, order, service.clock())
    targets = read_publication(service.publishing.storage.artifacts).targets.signed
    line = find_line(targets, order.model_name)
    write_audit(
        service,
        admin.name,
        "PublishBundle",
        order.model_name,
        {
            "action": action,
            "bundle_digest": order.bundle_digest.hex(),
            "is_current": line.current == order.bundle_digest,
            "targets_version": targets.version,
            "version": version,
        },
    )
    return pb.PublishBundleResponse(version=version, bundle_digest=order.bundle_digest)
