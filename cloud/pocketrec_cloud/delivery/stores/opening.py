# SPDX-License-Identifier: Apache-2.0
"""Opens the store that a URL or a path names."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.database import Database, PoolOptions
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_cloud.delivery.stores.postgres import PostgresAddress
from pocketrec_cloud.delivery.stores.sql import SqlStore

__all__ = ["open_database", "open_store", "parse_database"]

_EXPECTED = (
    "expected a path, sqlite:///PATH, postgresql://USER:PASSWORD@HOST:PORT/DATABASE or memory:"
)


def open_store(database: str | Path, *, pool: PoolOptions | None = None) -> DeliveryStore:
    """Open a store; its tables are made, or brought up to date, when needed.

    Args:
        database: ``memory:``, the path of a SQLite file, ``sqlite:///PATH``, or
            ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE`` with the options ``sslmode``
            (``disable``, ``prefer``, ``require``, ``verify-full``) and ``sslrootcert``. A
            password may come from the environment's ``PGPASSWORD`` instead.
        pool: How many connections; None = as ``PoolOptions`` has it.

    Returns:
        The store, for the caller to close.

    Raises:
        ConfigError: The URL cannot be understood; the message does not show it.
        StoreError: The database cannot be used.
    """
    if str(database) == "memory:":
        return MemoryStore()
    return SqlStore(open_database(database, pool=pool))


def open_database(database: str | Path, *, pool: PoolOptions | None = None) -> Database:
    """Return a SQL database with its tables as they are.

    Raises:
        ConfigError: The URL cannot be understood, or is ``memory:``.
    """
    return Database(parse_database(database), pool or PoolOptions())


def parse_database(database: str | Path) -> Path | PostgresAddress:
    """Return what a URL or a path names.

    Raises:
        ConfigError: It cannot be understood, or is ``memory:``; the message does not show it,
            because a password may be in it.
    """
    if isinstance(database, Path):
        return database
    scheme, colon, _ = database.partition(":")
    if "://" not in database:
        if not database or (colon and scheme == "memory"):
            raise ConfigError(_EXPECTED)
        return Path(database)
    try:
        url = sa.make_url(database)
    except (ArgumentError, ValueError):
        raise ConfigError(_EXPECTED) from None
    if url.drivername in ("postgresql", "postgres"):
        return PostgresAddress.from_url(url)
    if url.drivername == "sqlite" and url.database and not url.host:
        return Path(url.database)
    raise ConfigError(_EXPECTED)
