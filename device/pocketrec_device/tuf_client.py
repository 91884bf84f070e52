# SPDX-License-Identifier: Apache-2.0
"""What the server has published, as TUF vouches for it.

python-tuf does the checking: signatures, thresholds, root rotation, rollback, freeze and
mix-and-match. This module gives it our transport and turns its errors into ours.

Its metadata cache lies in ``tuf/`` of the store. It is a cache plus a rollback guard: a
file lost in a power cut is downloaded again, and the bundle and plan floors of
``state.json`` still hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tuf.api import exceptions as tuf_errors
from tuf.ngclient import FetcherInterface, Updater

from pocketrec.errors import (
    ExpiredArtifactError,
    IntegrityError,
    MalformedArtifactError,
    PocketRecError,
    RejectedError,
    RollbackError,
    ServiceUnavailableError,
)
from pocketrec_device.updater import TargetInfo

if TYPE_CHECKING:
    from pocketrec_device.transport import ServiceClient

__all__ = ["PublishedTargets", "TrustedTargets", "published_error"]

_METADATA_URL = "metadata/"


class PublishedTargets(Protocol):
    """Where ``sync`` learns what is published."""

    def find(self, path: str) -> TargetInfo | None:
        """Return what is promised about a target, or None when it is not published."""
        ...


class TrustedTargets:
    """The targets of one server, verified against a root of trust.

    Args:
        client: An authenticated connection.
        folder: The metadata cache.
        root: ``root.json`` as the app was shipped with it.

    Raises:
        ArtifactError: The root, or what the server sent, cannot be trusted.
        ServiceError: The server could not be asked.
        OSError: The cache cannot be written.
    """

    def __init__(self, client: ServiceClient, folder: Path, root: bytes) -> None:
        folder.mkdir(exist_ok=True)
        with _translated():
            self._updater = Updater(
                str(folder), _METADATA_URL, fetcher=_MetadataFetcher(client), bootstrap=root
            )
            self._updater.refresh()

    def find(self, path: str) -> TargetInfo | None:
        """See ``PublishedTargets.find``.

        Raises:
            IntegrityError: The signed targets name no SHA-256 for it.
            ArtifactError: Delegated metadata cannot be trusted.
            ServiceError: The server could not be asked.
        """
        with _translated():
            target = self._updater.get_targetinfo(path)
        if target is None:
            return None
        if "sha256" not in target.hashes:
            raise IntegrityError(f"{path}: the signed targets name no SHA-256; publish it again")
        return TargetInfo(path=path, length_bytes=target.length, sha256=target.hashes["sha256"])


class _MetadataFetcher(FetcherInterface):
    """Fetches TUF metadata through ``GetMetadata``; "not found" speaks HTTP, as tuf asks."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            content = self._client.get_metadata(url.removeprefix(_METADATA_URL))
        except RejectedError as exc:
            if exc.code == "NOT_FOUND":
                raise tuf_errors.DownloadHTTPError(str(exc), 404) from exc
            raise
        return iter([content])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as exc:
        raise published_error(exc) from exc


def published_error(
    exc: tuf_errors.RepositoryError | tuf_errors.DownloadError,
) -> PocketRecError:
    """Return what an error of python-tuf means to a device; most specific first."""
    if isinstance(exc, tuf_errors.DownloadError) and isinstance(exc.__cause__, PocketRecError):
        return exc.__cause__
    message = f"published metadata: {exc}"
    match exc:
        case tuf_errors.ExpiredMetadataError():
            return ExpiredArtifactError(f"{message}; the server must refresh it")
        case tuf_errors.BadVersionNumberError():
            # python-tuf tells both versions in its message only.
            versions = [int(number) for number in re.findall(r"\d+", str(exc))] or [0]
            return RollbackError(message, installed=max(versions), offered=min(versions))
        case (
            tuf_errors.UnsignedMetadataError()
            | tuf_errors.LengthOrHashMismatchError()
            | tuf_errors.DownloadLengthMismatchError()
        ):
            return IntegrityError(message)
        case tuf_errors.DownloadError():
            return ServiceUnavailableError(message, code="UNAVAILABLE")
    return MalformedArtifactError(message, field="tuf")
