# SPDX-License-Identifier: Apache-2.0
"""Locks that every process with the same database knows, and that end with their holder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pg8000.dbapi
from filelock import FileLock, Timeout

from pocketrec.errors import StoreError, StoreLockedError
from pocketrec_cloud.delivery.stores.postgres import PostgresAddress

__all__ = ["lock_beside", "lock_in_postgres"]

_TRY_EVERY_S = 0.05


@contextmanager
def lock_beside(path: Path, name: str, *, timeout_s: float) -> Iterator[None]:
    """Hold a lock on a file beside the database's.

    Raises:
        StoreLockedError: Another process has held it for ``timeout_s``.
        StoreError: The file cannot be made.
    """
    lock = FileLock(path.with_name(f"{path.name}.{name}.lock"), timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as exc:
        error = _held(name, timeout_s)
        raise error from exc
    except OSError as exc:
        raise StoreError(
            f"the lock {lock.lock_file!r} cannot be made; look at disk space and permissions"
        ) from exc
    try:
        yield
    finally:
        lock.release()


@contextmanager
def lock_in_postgres(address: PostgresAddress, name: str, *, timeout_s: float) -> Iterator[None]:
    """Hold an advisory lock, on a connection of its own.

    Raises:
        StoreLockedError: Another process has held it for ``timeout_s``.
        StoreError: The server cannot be reached, or was lost while the lock was held, so that
            somebody else may have held it, too.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    try:
        connection = address.connect()
    except (OSError, pg8000.dbapi.Error) as exc:
        error = _unreachable(name)
        raise error from exc
    try:
        _acquire(connection, key, name, timeout_s)
        yield
        _release(connection, key, name)
    finally:
        with suppress(OSError, pg8000.dbapi.Error):  # it was lost
            connection.close()  # which ends the lock, too


def _acquire(connection: Any, key: int, name: str, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not _call(connection, "pg_try_advisory_lock", key, name):
        if time.monotonic() >= deadline_s:
            raise _held(name, timeout_s)
        time.sleep(_TRY_EVERY_S)


def _release(connection: Any, key: int, name: str) -> None:
    if not _call(connection, "pg_advisory_unlock", key, name):
        raise _unreachable(name)


def _call(connection: Any, function: str, key: int, name: str) -> bool:
    try:
        cursor = connection.cursor()
        cursor.execute(f"SELECT {function}({key})")
        (result,) = cursor.fetchone()
    except (OSError, pg8000.dbapi.Error) as exc:
        raise _unreachable(name) from exc
    return bool(result)


def _held(name: str, timeout_s: float) -> StoreLockedError:
    return StoreLockedError(
        f"another process has held the lock {name!r} for {timeout_s:g} s; "
        "wait for it to end, then try again"
    )


def _unreachable(name: str) -> StoreError:
    return StoreError(
        f"the lock {name!r} needs the server of the database, which cannot be reached; "
        "see whether it runs, then try again"
    )
