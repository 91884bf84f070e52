# SPDX-License-Identifier: Apache-2.0
"""Writes files so that a reader finds the old content or the new, never a mixture.

Every change goes through a ``Disk``, one method per system call that a power cut can fall
between. Outside tests there is one, ``SYSTEM_DISK``; a test puts one in its place that
fails, or forgets what was not flushed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Protocol

__all__ = ["SYSTEM_DISK", "Disk", "SystemDisk", "make_folders", "write_atomically"]


class Disk(Protocol):
    """Changes files and folders; every method raises ``OSError`` where the system refuses.

    Nothing but ``flush`` makes a change survive a power cut: a file's content by flushing
    the file, its name by flushing the folder.
    """

    def write(self, path: Path, content: bytes, mode: int) -> None:
        """Make a new file with this content and these permission bits."""
        ...

    def append(self, path: Path, content: bytes) -> None:
        """Add to the end of a file; one that is absent is made, for its owner only."""
        ...

    def flush(self, path: Path) -> None:
        """Make a file's content, or a folder's entries, survive a power cut."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of whatever had that name."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        ...

    def remove(self, path: Path) -> None:
        """Take a name away from a file."""
        ...

    def make_folder(self, path: Path, mode: int) -> None:
        """Make a folder in one that exists."""
        ...

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        ...

    def free_bytes(self, folder: Path) -> int:
        """Return how many more bytes files in a folder may take."""
        ...


class SystemDisk:
    """The disk there is; see ``Disk``."""

    def write(self, path: Path, content: bytes, mode: int) -> None:
        """See ``Disk.write``."""
        with open(path, "xb", opener=_open_for_owner) as file:  # has no opener
            file.write(content)
        path.chmod(mode)

    def append(self, path: Path, content: bytes) -> None:
        """See ``Disk.append``."""
        with open(path, "ab", opener=_open_for_owner) as file:  # has no opener
            file.write(content)

    def flush(self, path: Path) -> None:
        """See ``Disk.flush``; where the system cannot flush a folder, nothing happens."""
        is_folder = path.is_dir()
        try:
            descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        except PermissionError:
            if is_folder:  # Windows opens none, and others none that may not be listed
                return
            raise
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """See ``Disk.rename``."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """See ``Disk.link``."""
        os.link(source, target)

    def remove(self, path: Path) -> None:
        """See ``Disk.remove``."""
        path.unlink()

    def make_folder(self, path: Path, mode: int) -> None:
        """See ``Disk.make_folder``."""
        path.mkdir(mode=mode)

    def remove_folder(self, path: Path) -> None:
        """See ``Disk.remove_folder``."""
        path.rmdir()

    def free_bytes(self, folder: Path) -> int:
        """See ``Disk.free_bytes``."""
        return shutil.disk_usage(folder).free


SYSTEM_DISK: Disk = SystemDisk()


def write_atomically(
    path: Path, content: bytes, *, mode: int = 0o644, disk: Disk = SYSTEM_DISK
) -> None:
    """Replace a file's content whole: temporary file, fsync, rename, fsync the folder.

    Args:
        path: The file; its folder must exist.
        content: What it shall hold.
        mode: Permission bits of the new file.
        disk: What writes.

    Raises:
        OSError: The content could not be written; the old file is untouched, unless only
            the last flush failed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        disk.write(temporary, content, mode)
        disk.flush(temporary)
        disk.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.remove(temporary)
        raise
    disk.flush(path.parent)


def make_folders(path: Path, *, mode: int = 0o777, disk: Disk = SYSTEM_DISK) -> None:
    """Make a folder and what is absent above it, so that all of it survives a power cut.

    Args:
        path: The folder; may exist.
        mode: Permission bits of the folder itself, if it is made.
        disk: What makes it.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    make_folders(path.parent, disk=disk)
    with contextlib.suppress(FileExistsError):  # made by somebody else just now
        disk.make_folder(path, mode)
    disk.flush(path.parent)


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
