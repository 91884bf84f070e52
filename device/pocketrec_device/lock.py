# SPDX-License-Identifier: Apache-2.0
"""Keeps a second writer out of a store, across threads and processes.

The lock belongs to an open file, so the system drops it when its process ends, however
it ends: a crash never leaves a store locked.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketrec.errors import StoreLockedError
from pocketrec.files import SYSTEM_DISK, Disk

__all__ = ["writer_lock"]


@contextmanager
def writer_lock(path: Path, *, disk: Disk = SYSTEM_DISK) -> Iterator[None]:
    """Hold the lock file at ``path`` for the length of a ``with`` block.

    Args:
        path: The lock file; made when absent, never deleted.
        disk: What makes it.

    Raises:
        StoreLockedError: Somebody else holds it.
        OSError: The file cannot be opened or locked.
    """
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # made by somebody else just now
            disk.write(path, b"", 0o600)
    descriptor = os.open(path, os.O_RDWR)
    try:
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError) as exc:
            raise StoreLockedError(
                f"another process or thread is writing to {str(path.parent)!r}; "
                "wait until it is done and try again"
            ) from exc
        yield
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
