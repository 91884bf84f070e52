# SPDX-License-Identifier: Apache-2.0
"""Parts on their way: files that grow until they are whole, and survive a broken stream.

A part is named by its digest, so bytes that arrived last week still belong to it. What
arrived is not trusted: only a whole file with the right digest leaves this folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from pocketrec.errors import IntegrityError
from pocketrec.files import fsync_folder

__all__ = ["Downloads", "StepHook", "file_digest", "no_step"]

StepHook: TypeAlias = Callable[[str], None]
"""Called before each change on disk with the step's name, such as ``"write state.json"``."""


def no_step(step: str) -> None:
    """Do nothing: outside tests nobody watches the steps."""


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
        on_step: Called before each change on disk.
    """

    def __init__(self, folder: Path, *, on_step: StepHook = no_step) -> None:
        self._folder = folder
        self._on_step = on_step

    def arrived(self, sha256: str, length_bytes: int) -> int:
        """Return how many bytes of a part are here; drops a file that is too long.

        Raises:
            OSError: The file cannot be looked at.
        """
        path = self._path(sha256)
        n_bytes = path.stat().st_size if path.exists() else 0
        if n_bytes > length_bytes:
            path.unlink()
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
        path.parent.mkdir(exist_ok=True)
        n_bytes = 0
        with path.open("ab") as file:
            for chunk in chunks:
                self._on_step(f"append {path.name}")
                n_bytes += len(chunk)
                if file.tell() + len(chunk) > length_bytes:
                    path.unlink()
                    raise IntegrityError(
                        f"part {sha256}: expected {length_bytes} bytes, got more; sync again"
                    )
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            if file.tell() != length_bytes:
                raise IntegrityError(
                    f"part {sha256}: expected {length_bytes} bytes, but the server ended after "
                    f"{file.tell()}; sync again"
                )
        return n_bytes

    def finish(self, sha256: str, target: Path) -> None:
        """Move a whole part to ``target``, if it is what its digest says.

        Raises:
            IntegrityError: It is not; it is dropped, so that the next sync starts afresh.
            OSError: It cannot be moved.
        """
        path = self._path(sha256)
        digest = file_digest(path)
        if digest != sha256:
            path.unlink()
            raise IntegrityError(
                f"expected a part with SHA-256 {sha256}, got {digest}; "
                "it was damaged on the way: sync again"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        self._on_step(f"move {path.name}")
        path.replace(target)
        fsync_folder(target.parent)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.part"
