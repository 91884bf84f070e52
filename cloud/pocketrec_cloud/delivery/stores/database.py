# SPDX-License-Identifier: Apache-2.0
"""Transactions on a SQL database: where the driver's errors become ours, and changes are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.postgres import PostgresAddress, guard_connections
from pocketrec_cloud.delivery.stores.schema import COUNTERS
from pocketrec_quantization.checks import check_integer

__all__ = ["CHANNEL", "Database", "PoolOptions", "next_number", "use_number"]

CHANNEL = "pocketrec_changes"
"""Where PostgreSQL tells of changes."""

_BUSY_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How many connections one process may hold.

    Args:
        size: Kept open.
        overflow: More of them, while they are needed.
        timeout_s: How long a call waits for one before it fails.

    Raises:
        ConfigError: ``size`` is below 1, or ``overflow`` below 0.
    """

    size: int = 8
    overflow: int = 8
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        check_integer(self.size, field="size", minimum=1)
        check_integer(self.overflow, field="overflow", minimum=0)


class Database:
    """A SQL database and its connections; safe to share between threads.

    Args:
        target: A SQLite file, which need not exist, or where PostgreSQL is.
        pool: How many connections.
    """

    def __init__(self, target: Path | PostgresAddress, pool: PoolOptions) -> None:
        self.target = target
        self._turn: AbstractContextManager[Any] = nullcontext()
        options = {
            "pool_size": pool.size,
            "max_overflow": pool.overflow,
            "pool_timeout": pool.timeout_s,
            "hide_parameters": True,  # errors end up in logs
        }
        if isinstance(target, PostgresAddress):
            self.name = f"postgresql://{target.host}:{target.port}/{target.database}"
            self._engine = sa.create_engine(
                "postgresql+pg8000://", creator=target.connect, **options
            )
            guard_connections(self._engine)
            begin = "BEGIN"
        else:
            self.name = str(target)
            url = sa.URL.create("sqlite", database=str(target))
            self._engine = sa.create_engine(url, **options)
            sa.event.listen(self._engine, "connect", _configure_sqlite)
            begin = "BEGIN IMMEDIATE"  # a reader that turns writer cannot wait for another one
            self._turn = threading.Lock()  # queues threads fairly, which SQLite's waiting does not
        self._writer = self._engine.execution_options(is_writer=True)

        @sa.event.listens_for(self._engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            if connection.get_execution_options().get("is_writer"):
                connection.exec_driver_sql(begin)

    @property
    def is_postgres(self) -> bool:
        """Whether this is PostgreSQL rather than SQLite."""
        return isinstance(self.target, PostgresAddress)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Lend a connection on which each statement sees what is stored at its start.

        Raises:
            StoreError: The database fails.
        """
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Lend a connection with one transaction, which ends with the block.

        Raises:
            StoreError: The database fails, or a row breaks a constraint; nothing was stored.
        """
        with self._translated(), self._turn, self._writer.begin() as connection:
            yield connection

    def prepare(self) -> None:
        """Set up what stays with the database for good; nobody else may do so meanwhile.

        Raises:
            StoreError: The database fails.
        """
        if not self.is_postgres:
            with self.read() as connection:  # lets readers go on beside a writer
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """Lend a connection with one transaction, whose statements may take their time.

        Raises:
            StoreError: The database fails.
        """
        target = self.target
        if not isinstance(target, PostgresAddress):
            with self.write() as connection:
                yield connection
            return
        engine = sa.create_engine(
            "postgresql+pg8000://",
            creator=lambda: target.connect(is_patient=True),
            poolclass=sa.NullPool,
        )
        with self._translated(), engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection
            connection.commit()

    def tell(self, connection: sa.Connection, change: Change) -> None:
        """Let listeners know once this transaction has ended well."""
        counter = COUNTERS.c.name == change.value
        connection.execute(COUNTERS.update().where(counter).values(value=COUNTERS.c.value + 1))
        self.notify(connection, change)

    def notify(self, connection: sa.Connection, change: Change) -> None:
        """Do as ``tell``, where the counter was moved already."""
        if self.is_postgres:
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, change.value)))

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as exc:
            raise StoreError(
                f"the database {self.name!r} refused a row that another one excludes"
            ) from exc
        except (SQLAlchemyError, OSError) as exc:
            advice = (
                "see whether the server runs and can be reached"
                if self.is_postgres
                else "look at disk space and permissions"
            )
            raise StoreError(
                f"the database {self.name!r} failed; {advice}, then try again"
            ) from exc


def next_number(connection: sa.Connection, name: str) -> int:
    """Return the number that follows the newest one, which nobody else can get or see before.

    The counter's row stays locked until the transaction ends, so numbers become visible in
    order. It has to be moved with ``use_number``.
    """
    query = sa.select(COUNTERS.c.value).where(COUNTERS.c.name == name).with_for_update()
    return int(connection.execute(query).scalar_one()) + 1


def use_number(connection: sa.Connection, name: str, number: int) -> None:
    """Move the counter on to a number that ``next_number`` gave."""
    connection.execute(COUNTERS.update().where(COUNTERS.c.name == name).values(value=number))


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Let everybody wait for whoever writes, and leave transactions to us."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.close()
