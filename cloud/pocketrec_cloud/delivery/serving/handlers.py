# SPDX-License-Identifier: Apache-2.0
"""What each call answers: functions from a request to a response, without a socket.

A handler raises pocketrec's errors, or ``OSError``; ``error_catalogue`` says what a caller
sees of them. Everything a caller sends is bounded here before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pocketrec.errors import IntegrityError, RejectedError
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.plans.director import Director, PlanRequest
from pocketrec_cloud.delivery.plans.requests import read_plan_request
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore
from pocketrec_cloud.delivery.publishing.layout import target_name
from pocketrec_cloud.delivery.publishing.publication import PublicationCache, PublishedFile
from pocketrec_cloud.delivery.publishing.targets import part_target
from pocketrec_cloud.delivery.rollouts.desk import RolloutDesk
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_proto.v1 import device_service_pb2 as pb

__all__ = [
    "DeliveryService",
    "check_plan_request",
    "find_target",
    "get_metadata",
    "read_chunk",
]

_METADATA_NAME = re.compile(r"timestamp\.json|[1-9][0-9]{0,9}\.(root|snapshot|targets)\.json")
_PART_PATH = re.compile(r"parts/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryService:
    """What the handlers work on; every part may be shared between threads."""

    artifacts: ArtifactStore
    publication: PublicationCache
    store: DeliveryStore
    director: Director
    limits: Limits
    identity: IdentityService
    plans: RateLimiter
    clock: Callable[[], float]
    rollouts: RolloutDesk


def get_metadata(
    service: DeliveryService, request: pb.GetMetadataRequest
) -> pb.GetMetadataResponse:
    """Return one TUF metadata file.

    Raises:
        RejectedError: The name is not one of TUF metadata, or there is no such file.
        OSError: The file cannot be read.
    """
    if not _METADATA_NAME.fullmatch(request.filename):
        raise RejectedError(
            "expected 'timestamp.json' or '<version>.<root|snapshot|targets>.json', "
            f"got {request.filename[:64]!r}",
            code="INVALID_ARGUMENT",
        )
    try:
        content = service.publication.metadata(request.filename)
    except FileNotFoundError as exc:
        raise RejectedError(
            f"there is no metadata file {request.filename!r}", code="NOT_FOUND"
        ) from exc
    return pb.GetMetadataResponse(content=content)


def find_target(service: DeliveryService, request: pb.FetchChunkRequest) -> PublishedFile:
    """Return the file behind a target path, with the offset checked against its length.

    A path is only ever looked up among the published names; it never becomes a path on
    disk. Parts of an earlier publication stay available, so that a download which began
    before a publication can end after it.

    Raises:
        RejectedError: Nothing is published under this path, or the offset lies beyond
            the end.
        ArtifactError: The store's metadata is damaged.
        StoreError: The store has no repository.
        OSError: A file cannot be read.
    """
    file = service.publication.current().files.get(request.target_path)
    if file is None and (part := _PART_PATH.fullmatch(request.target_path)):
        file = _earlier_part(service.artifacts, part[1])
    if file is None:
        raise RejectedError(
            f"nothing is published as {request.target_path[:128]!r}", code="NOT_FOUND"
        )
    if request.offset_bytes > file.length_bytes:
        raise RejectedError(
            f"{file.path!r} has {file.length_bytes} bytes, the offset is {request.offset_bytes}; "
            "start again from 0",
            code="OUT_OF_RANGE",
        )
    return file


def read_chunk(
    service: DeliveryService, file: PublishedFile, offset_bytes: int
) -> pb.FetchChunkResponse:
    """Return the chunk of a file that starts at an offset below its length.

    Raises:
        IntegrityError: The file on disk is shorter than what was published.
        OSError: It cannot be read.
    """
    length = min(service.limits.chunk_bytes, file.length_bytes - offset_bytes)
    content = service.artifacts.read_range(target_name(file.sha256), offset_bytes, length)
    if len(content) != length:
        raise IntegrityError(
            f"{file.path!r} was published with {file.length_bytes} bytes and is shorter on disk; "
            "restore it from a copy"
        )
    return pb.FetchChunkResponse(offset_bytes=offset_bytes, content=content)


def check_plan_request(
    service: DeliveryService, request: pb.GetPlanRequest, device_id: str
) -> PlanRequest:
    """Return what a device asks the director for; reads and writes no storage.

    Raises:
        RejectedError: A field is out of bounds, or this device asks too often.
    """
    if not service.plans.allow(device_id):
        raise RejectedError(
            "too many plans asked for; try again in a minute", code="RESOURCE_EXHAUSTED"
        )
    return read_plan_request(request, device_id)


def _earlier_part(artifacts: ArtifactStore, sha256: str) -> PublishedFile | None:
    """Return a part that was published once, by its digest."""
    length = artifacts.size_bytes(target_name(sha256))
    if length is None:
        return None
    return PublishedFile(path=part_target(sha256), sha256=sha256, length_bytes=length)
