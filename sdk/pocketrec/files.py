# SPDX-License-Identifier: Apache-2.0
"""Writes files so that a reader finds the old content or the new, never a mixture."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["fsync_folder", "write_atomically"]


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut, where the system can do so."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file's content whole: temporary file, fsync, rename, fsync the folder.

    Args:
        path: The file; its folder must exist.
        content: What it shall hold.
        mode: Permission bits of the new file.

    Raises:
        OSError: The content could not be written; the old file is untouched.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
