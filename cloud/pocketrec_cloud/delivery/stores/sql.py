# SPDX-License-Identifier: Apache-2.0
"""What the server remembers, in a SQL database: SQLite or PostgreSQL."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path

import sqlalchemy as sa

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.store_protocols import ChangeListener
from pocketrec_cloud.delivery.stores.database import Database, PoolOptions
from pocketrec_cloud.delivery.stores.listeners import PostgresListener, SqliteListener
from pocketrec_cloud.delivery.stores.locks import lock_beside, lock_in_postgres
from pocketrec_cloud.delivery.stores.migration import ensure_newest
from pocketrec_cloud.delivery.stores.postgres import PostgresAddress
from pocketrec_cloud.delivery.stores.schema import COUNTERS
from pocketrec_cloud.delivery.stores.sql_admins import SqlAdmins
from pocketrec_cloud.delivery.stores.sql_devices import SqlDevices
from pocketrec_cloud.delivery.stores.sql_models import SqlModels
from pocketrec_cloud.delivery.stores.sql_orders import SqlOrders
from pocketrec_cloud.delivery.stores.sql_plans import SqlPlans
from pocketrec_cloud.delivery.stores.sql_rollouts import SqlRollouts

__all__ = ["SqlStore"]

_LOCK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class SqlStore(SqlDevices, SqlModels, SqlPlans, SqlOrders, SqlRollouts, SqlAdmins):
    """A ``DeliveryStore`` in a SQL database; safe to share between threads.

    Several processes may open one database. A process that forks opens its store afterwards.

    Args:
        database: Where to connect; tables are made, or brought up to date, when needed.

    Raises:
        StoreError: The database cannot be used, or is of a newer release.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        try:
            ensure_newest(database)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open(cls, target: Path | PostgresAddress, *, pool: PoolOptions | None = None) -> SqlStore:
        """Open, or create, a SQLite file or the tables of a PostgreSQL database.

        Raises:
            StoreError: The file is no database, the server cannot be reached, or the tables
                are of a newer release.
        """
        return cls(Database(target, pool or PoolOptions()))

    def listen(self) -> ChangeListener:
        """Return a listener of its own."""
        target = self._database.target
        if isinstance(target, PostgresAddress):
            return PostgresListener(target)
        return SqliteListener(target)

    def lock(self, name: str, *, timeout_s: float) -> AbstractContextManager[None]:
        """Hold a lock that every process with this database knows.

        Args:
            name: Lower-case letters, digits and hyphens.
            timeout_s: How long to wait for another holder.

        Raises:
            StoreLockedError: Another process has held it for ``timeout_s``.
            StoreError: The storage fails.
            ConfigError: The name has other characters.
        """
        if not _LOCK_NAME.fullmatch(name):
            raise ConfigError(f"expected a name of a-z, 0-9 and '-', got {name!r}")
        target = self._database.target
        if isinstance(target, PostgresAddress):
            return lock_in_postgres(target, name, timeout_s=timeout_s)
        return lock_beside(target, name, timeout_s=timeout_s)

    def check(self) -> None:
        """Return quietly when the storage answers."""
        with self._database.read() as connection:
            connection.execute(sa.select(COUNTERS.c.value).limit(1)).first()

    def close(self) -> None:
        """Give all connections back."""
        self._database.close()
