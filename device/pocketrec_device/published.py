# SPDX-License-Identifier: Apache-2.0
"""Small files that TUF vouches for, fetched and verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketrec.errors import IntegrityError, RejectedError
from pocketrec_device.updater import TargetInfo, accept_content, read_director_keys

if TYPE_CHECKING:
    from pocketrec.signing import PublicKey
    from pocketrec_device.transport import ServiceClient
    from pocketrec_device.tuf_client import PublishedTargets

__all__ = ["fetch_director_keys", "fetch_small", "required_target"]

_MAX_DIRECTOR_BYTES = 16 * 2**10


def required_target(targets: PublishedTargets, path: str) -> TargetInfo:
    """Return what is promised about a target.

    Raises:
        RejectedError: It is not published.
    """
    target = targets.find(path)
    if target is None:
        raise RejectedError(
            f"the server publishes no {path!r}; check the model's name, and that a bundle was "
            "published",
            code="NOT_FOUND",
        )
    return target


def fetch_small(client: ServiceClient, target: TargetInfo, maximum_bytes: int) -> bytes:
    """Return a verified target that fits in memory.

    Raises:
        IntegrityError: It is larger than that, or not what was promised.
        ServiceError: The server could not be asked.
    """
    if target.length_bytes > maximum_bytes:
        raise IntegrityError(
            f"{target.path}: expected at most {maximum_bytes} bytes, but "
            f"{target.length_bytes} were published; publish it again"
        )
    data = bytearray()
    for chunk in client.fetch(target.path, 0):
        data += chunk
        if len(data) > target.length_bytes:
            break  # accept_content refuses it
    return accept_content(bytes(data), target)


def fetch_director_keys(client: ServiceClient, targets: PublishedTargets) -> tuple[PublicKey, ...]:
    """Return the keys that may sign assignments and plans.

    Raises:
        ArtifactError: The file is not what was promised, or lists no keys.
        RejectedError: It is not published.
        ServiceError: The server could not be asked.
    """
    target = required_target(targets, "director.json")
    return read_director_keys(fetch_small(client, target, _MAX_DIRECTOR_BYTES))
