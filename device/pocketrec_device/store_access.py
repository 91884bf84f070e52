# SPDX-License-Identifier: Apache-2.0
"""Turns what the system refuses a store into errors that say what to do.

One place for all of it: whatever is done to a store is done inside ``store_access``.
Errors about files elsewhere, such as a packaged bundle's, are left as they are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketrec.errors import (
    DiskFullError,
    PocketRecError,
    StoreAccessError,
    StoreReadOnlyError,
)

__all__ = ["access_error", "check_room", "store_access"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def store_access(folder: Path) -> Iterator[None]:
    """Give the errors of a ``with`` block that are about a store their names.

    Args:
        folder: The store.

    Raises:
        DiskFullError: There is no room.
        StoreReadOnlyError: The store may not be written.
        StoreAccessError: The system refused something else about the store.
        OSError: It refused something about another file.
    """
    try:
        yield
    except OSError as exc:
        if isinstance(exc, PocketRecError) or not _is_about(exc, folder):
            raise
        named = access_error(exc, folder)
        raise named from exc


def access_error(exc: OSError, folder: Path) -> StoreAccessError:
    """Return our error for what the system said.

    Args:
        exc: What it said.
        folder: The store.
    """
    where, said = f"the store at {str(folder)!r}", exc.strerror or str(exc)
    if exc.errno in _FULL:
        return DiskFullError(
            f"expected room to write to {where}, but the system says {said!r}; free some room "
            "and try again: what is installed still ranks",
            errno=exc.errno,
        )
    if exc.errno in _READ_ONLY:
        return StoreReadOnlyError(
            f"expected to be allowed to change {where}, but the system says {said!r}; check its "
            "permissions and how it is mounted: what is installed still ranks if it can be read",
            errno=exc.errno,
        )
    return StoreAccessError(
        f"expected to read and write {where}, but the system says {said!r}; try again, and check "
        "the disk if it stays",
        errno=exc.errno,
    )


def check_room(needed_bytes: int, free_bytes: int, folder: Path) -> None:
    """Return quietly when there is room for what is about to be written.

    Args:
        needed_bytes: What it takes, margin included.
        free_bytes: What there is.
        folder: The store, for the message.

    Raises:
        DiskFullError: There is too little.
    """
    if free_bytes < needed_bytes:
        raise DiskFullError(
            f"expected {needed_bytes} bytes free for the store at {str(folder)!r}, but there are "
            f"{free_bytes}; free {needed_bytes - free_bytes} bytes and try again: nothing was "
            "fetched, and what is installed still ranks",
            errno=errno.ENOSPC,
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )


def _is_about(exc: OSError, folder: Path) -> bool:
    """Whether an error is about a store's files, where the store lies, or no file at all."""
    if not isinstance(exc.filename, str | bytes | os.PathLike):
        return True
    path, store = Path(os.fsdecode(exc.filename)).absolute(), folder.absolute()
    return path.is_relative_to(store) or store.is_relative_to(path)
