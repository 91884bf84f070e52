# SPDX-License-Identifier: Apache-2.0
"""Whole files by name, in a folder or in a bucket of an S3 API: all a server keeps but its records.

::

    artifacts = open_artifacts("s3://company-models/pocketrec")   # or open_artifacts(Path("STORE"))
    artifacts.write("metadata/timestamp.json", content)

What the names are is in ``layout``. A bucket is reached through fsspec and s3fs, which take
endpoint, region and credentials from the usual variables (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ...) and files.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pocketrec.errors import ConfigError, MissingExtraError, StoreAccessError
from pocketrec.files import make_folders, write_atomically

__all__ = [
    "ArtifactStore",
    "BucketArtifacts",
    "FolderArtifacts",
    "Stamp",
    "is_bucket_url",
    "open_artifacts",
]

Stamp: TypeAlias = tuple[object, ...]
"""What changes whenever a file is replaced; empty when there is none."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_BUCKET = "s3://"
# Our choice: a second, in which a server may not have heard of a publication, is nothing
# beside the time devices take to ask, and bounds the requests for a stamp.
_STAMP_TTL_S = 1.0


class ArtifactStore(Protocol):
    """Files by name; safe to share between threads.

    A file is replaced whole: a reader finds the old content or the new. What was written
    survives a crash once ``write`` has returned.

    Any method raises ``ConfigError`` for what is no name, and ``OSError`` when the storage
    fails.
    """

    @property
    def url(self) -> str:
        """Where the files are, for messages: a path, or an ``s3://`` URL."""

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: There is no such file.
        """

    def read_range(self, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Return a piece of a file; shorter where the file ends.

        Raises:
            FileNotFoundError: There is no such file.
        """

    def size_bytes(self, name: str) -> int | None:
        """Return a file's length, or None when there is no such file."""

    def names(self, folder: str) -> list[str]:
        """Return the last parts of the names of the files directly below a folder, sorted."""

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place of whatever had its name."""

    def stamp(self, name: str) -> Stamp:
        """Return what changes whenever the file is replaced; cheap, maybe a second old."""


class FolderArtifacts:
    """An ``ArtifactStore`` in a folder, which need not exist yet.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self._root)

    def read(self, name: str) -> bytes:
        """See ``ArtifactStore.read``."""
        return self._path(name).read_bytes()

    def read_range(self, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        """See ``ArtifactStore.read_range``."""
        with self._path(name).open("rb") as file:
            file.seek(offset_bytes)
            return file.read(length_bytes)

    def size_bytes(self, name: str) -> int | None:
        """See ``ArtifactStore.size_bytes``."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """See ``ArtifactStore.names``; what a write left half-done is no file."""
        try:
            found = [path.name for path in self._path(folder).iterdir() if path.is_file()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def write(self, name: str, content: bytes) -> None:
        """See ``ArtifactStore.write``."""
        path = self._path(name)
        make_folders(path.parent)
        write_atomically(path, content)

    def stamp(self, name: str) -> Stamp:
        """See ``ArtifactStore.stamp``; never old."""
        try:
            status = os.stat(self._path(name))  # noqa: PTH116  on the path of every request
        except FileNotFoundError:
            return ()
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def _path(self, name: str) -> Path:
        return self._root / _checked(name)


class BucketArtifacts:
    """An ``ArtifactStore`` below a prefix of a bucket, over an fsspec file system.

    The file system has to replace objects whole and to show an ``ETag``, as S3 does. Open it
    in the process that uses it: its connections do not survive a fork.

    Args:
        filesystem: An fsspec file system that caches no listings.
        root: Bucket and prefix, as the file system names them.
        url: What messages call it.
        stamp_ttl_s: Seconds for which a stamp is good.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        filesystem: Any,
        root: str,
        *,
        url: str,
        stamp_ttl_s: float = _STAMP_TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._url = url
        self._stamp_ttl_s = stamp_ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._stamps: dict[str, tuple[float, Stamp]] = {}

    @property
    def url(self) -> str:
        """The ``s3://`` URL."""
        return self._url

    def read(self, name: str) -> bytes:
        """See ``ArtifactStore.read``."""
        with self._translated(name):
            content: bytes = self._filesystem.cat_file(self._path(name), max_concurrency=1)
        return content

    def read_range(self, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        """See ``ArtifactStore.read_range``."""
        if not length_bytes:
            return b""
        with self._translated(name):
            content: bytes = self._filesystem.cat_file(
                self._path(name), start=offset_bytes, end=offset_bytes + length_bytes
            )
        return content

    def size_bytes(self, name: str) -> int | None:
        """See ``ArtifactStore.size_bytes``."""
        info = self._info(name)
        return None if info is None else int(info["size"])

    def names(self, folder: str) -> list[str]:
        """See ``ArtifactStore.names``."""
        try:
            with self._translated(folder):
                found = self._filesystem.ls(self._path(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(info["name"].rsplit("/", 1)[1] for info in found if info["type"] == "file")

    def write(self, name: str, content: bytes) -> None:
        """See ``ArtifactStore.write``.

        Raises:
            StoreAccessError: The bucket does not take it.
        """
        try:
            with self._translated(name):
                self._filesystem.pipe_file(self._path(name), content)
        except FileNotFoundError as exc:
            raise StoreAccessError(f"{self._url}: there is no such bucket; make it first") from exc
        finally:
            with self._lock:
                self._stamps.pop(name, None)

    def stamp(self, name: str) -> Stamp:
        """See ``ArtifactStore.stamp``; asked again when it is older than its time."""
        with self._lock:
            expires_s, stamp = self._stamps.get(name, (0.0, ()))
            if stamp and self._clock() < expires_s:
                return stamp
        info = self._info(name)
        stamp = () if info is None else (info["ETag"],)
        with self._lock:
            self._stamps[name] = (self._clock() + self._stamp_ttl_s, stamp)
        return stamp

    def _info(self, name: str) -> dict[str, Any] | None:
        try:
            with self._translated(name):
                info: dict[str, Any] = self._filesystem.info(self._path(name), refresh=True)
        except FileNotFoundError:
            return None
        return info if info["type"] == "file" else None

    def _path(self, name: str) -> str:
        return f"{self._root}/{_checked(name)}"

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Turn whatever the client libraries raise, but for an absent file, into our error."""
        try:
            yield
        except ConfigError:
            raise
        except FileNotFoundError as exc:
            raise FileNotFoundError(errno.ENOENT, "no such file", f"{self._url}/{name}") from exc
        except Exception as exc:
            raise StoreAccessError(
                f"{self._url}/{name}: the bucket does not answer as it should: {exc}; look at "
                "the endpoint, the credentials and what they permit"
            ) from exc


def is_bucket_url(store: str | Path) -> bool:
    """Whether a store is named by a URL of a bucket rather than by a folder."""
    return str(store).startswith(_BUCKET)


def open_artifacts(store: str | Path) -> ArtifactStore:
    """Return the files of a store; nothing is read or made yet.

    Args:
        store: A folder, or ``s3://bucket/prefix``.

    Raises:
        ConfigError: It is a URL of another kind, or names no bucket.
        MissingExtraError: Buckets need a library that is not installed.
    """
    if not is_bucket_url(store):
        if "://" in str(store):
            raise ConfigError(f"store: expected a folder or s3://BUCKET/PREFIX, got {store!r}")
        return FolderArtifacts(Path(store))
    root = str(store).removeprefix(_BUCKET).rstrip("/")
    if not root or root.startswith("/"):
        raise ConfigError(f"store: expected s3://BUCKET/PREFIX, got {store!r}")
    try:
        from s3fs import S3FileSystem
    except ImportError as exc:
        raise MissingExtraError(
            "buckets need the package 's3fs'; run `pip install 'pocketrec[s3]'`"
        ) from exc
    filesystem = S3FileSystem(
        use_listings_cache=False, default_fill_cache=False, skip_instance_cache=True
    )
    return BucketArtifacts(filesystem, root, url=f"{_BUCKET}{root}")


def _checked(name: str) -> str:
    """Return a name that cannot lead out of the store."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a relative name such as 'targets/ab12', got {name!r}")
    return name
