# SPDX-License-Identifier: Apache-2.0
"""Keeps a second writer out of a store, across threads and processes.

The lock belongs to an open file, so the system drops it when its process ends, however
it ends: a crash never leaves a store locked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketrec.errors import StoreLockedError

__all__ = ["writer_lock"]


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path`` for the length of a ``with`` block.

    Args:
        path: The lock file; made when absent, never deleted.

    Raises:
        StoreLockedError: Somebody else holds it.
        OSError: The file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            _lock(descriptor)
        except OSError as exc:
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
