# SPDX-License-Identifier: Apache-2.0
"""Parts on their way: files that grow until they are whole, and survive a broken stream.

A part is named by its digest, so bytes that arrived last week still belong to it. What
arrived is not trusted: only a whole file with the right digest leaves this folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pocketrec.errors import IntegrityError
from pocketrec.files import SYSTEM_DISK, Disk, make_folders

__all__ = ["Downloads", "file_digest"]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Downloads:
    """The folder of growing files, one per part.

    Args:
        folder: Made when the first byte arrives.
        disk: What writes.
    """

    def __init__(self, folder: Path, *, disk: Disk = SYSTEM_DISK) -> None:
        self._folder = folder
        self._disk = disk

    def arrived(self, sha256: str, length_bytes: int) -> int:
        """Return how many bytes of a part are here; drops a file that is too long.

        Raises:
            OSError: The file cannot be looked at.
        """
        path = self._path(sha256)
        n_bytes = path.stat().st_size if path.exists() else 0
        if n_bytes > length_bytes:
            self._disk.remove(path)
            return 0
        return n_bytes

    def append(self, sha256: str, chunks: Iterable[bytes], length_bytes: int) -> int:
        """Add chunks to a part and return how many bytes came; they stay if the stream breaks.

        Raises:
            IntegrityError: More came than the part has, or less; what arrived is dropped
                in the first case.
            OSError: They cannot be written.
            ServiceError: The stream broke.
        """
        path = self._path(sha256)
        make_folders(self._folder, disk=self._disk)
        n_before = n_here = path.stat().st_size if path.exists() else 0
        for chunk in chunks:
            if n_here + len(chunk) > length_bytes:
                if n_here:
                    self._disk.remove(path)
                raise IntegrityError(
                    f"part {sha256}: expected {length_bytes} bytes, got more; sync again"
                )
            self._disk.append(path, chunk)
            n_here += len(chunk)
        if n_here != length_bytes:
            raise IntegrityError(
                f"part {sha256}: expected {length_bytes} bytes, but the server ended after "
                f"{n_here}; sync again"
            )
        return n_here - n_before

    def finish(self, sha256: str, target: Path) -> None:
        """Move a whole part to ``target``, if it is what its digest says.

        Raises:
            IntegrityError: It is not; it is dropped, so that the next sync starts afresh.
            OSError: It cannot be moved.
        """
        path = self._path(sha256)
        digest = file_digest(path)
        if digest != sha256:
            self._disk.remove(path)
            raise IntegrityError(
                f"expected a part with SHA-256 {sha256}, got {digest}; "
                "it was damaged on the way: sync again"
            )
        make_folders(target.parent, disk=self._disk)
        self._disk.flush(path)  # here, since whoever wrote the end may have been killed after it
        self._disk.rename(path, target)
        self._disk.flush(target.parent)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.part"
