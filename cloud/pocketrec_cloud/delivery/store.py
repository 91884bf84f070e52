# SPDX-License-Identifier: Apache-2.0
"""What the server remembers, kept in a SQL database: SQLite by default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.records import (
    DeliveryStore,
    DeviceRecord,
    ModelRecord,
    PlanRecord,
    PlanSwap,
)

__all__ = [
    "DeliveryStore",
    "DeviceRecord",
    "ModelRecord",
    "PlanRecord",
    "PlanSwap",
    "SqlStore",
    "sqlite_engine",
]


_METADATA = sa.MetaData()

_DEVICES = sa.Table(
    "devices",
    _METADATA,
    sa.Column("device_id", sa.String(32), primary_key=True),
    sa.Column("token_sha256", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("app_version", sa.Text, nullable=False),
    sa.Column("os", sa.Text, nullable=False),
    sa.Column("ram_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at_s", sa.BigInteger, nullable=False),
)

_MODELS = sa.Table(
    "models",
    _METADATA,
    sa.Column("bundle_digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("model_digest", sa.LargeBinary(32), nullable=False, index=True),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)

_PLANS = sa.Table(
    "plans",
    _METADATA,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("model_digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("planner", sa.Text, nullable=False),
    sa.Column("budget_bytes", sa.BigInteger, nullable=False),
    sa.Column("issued_at_s", sa.BigInteger, nullable=False),
    sa.Column("expires_at_s", sa.BigInteger, nullable=False),
    sa.Column("container", sa.LargeBinary, nullable=False),
)

# Statements of every request are built once: that takes longer than to run them. A database
# that does not know OR IGNORE raises where the row exists, which comes to the same.
_INSERT_PLAN = (
    _PLANS.insert()
    .prefix_with("OR IGNORE", dialect="sqlite")
    .execution_options(preserve_rowcount=True)
)
_UPDATE_PLAN = (
    _PLANS.update()
    .where(_PLANS.c.subject == sa.bindparam("subject_"))
    .where(_PLANS.c.model_digest == sa.bindparam("model_digest_"))
    .where(_PLANS.c.version == sa.bindparam("version_"))
)
_FIND_PLANS = (
    sa.select(_PLANS)
    .where(_PLANS.c.model_digest == sa.bindparam("model_digest_"))
    .where(_PLANS.c.subject.in_(sa.bindparam("subjects_", expanding=True)))
)


class SqlStore:
    """A ``DeliveryStore`` in a SQL database; safe to share between threads.

    Args:
        engine: Where to connect; tables are made when they are missing.

    Raises:
        StoreError: The database cannot be used.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        with self._transaction() as connection:
            _METADATA.create_all(connection)

    @classmethod
    def open(cls, path: Path) -> SqlStore:
        """Open, or create, a SQLite file.

        Raises:
            StoreError: The file is no database, or cannot be written.
        """
        return cls(sqlite_engine(path))

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def add_device(self, device: DeviceRecord) -> None:
        """Remember a device; its id and token are new."""
        with self._transaction() as connection:
            connection.execute(_DEVICES.insert().values(_columns(device)))

    def find_device(self, token_sha256: bytes) -> str | None:
        """Return the id of the device that holds a token, or None."""
        query = sa.select(_DEVICES.c.device_id).where(_DEVICES.c.token_sha256 == token_sha256)
        with self._transaction() as connection:
            found: str | None = connection.scalar(query)
        return found

    def recall_device(self, token_sha256: bytes) -> str | None:  # noqa: ARG002  nothing is kept
        """Return what ``find_device`` would, if no storage has to be asked; None otherwise."""
        return None

    def record_model(self, model: ModelRecord) -> None:
        """Remember a bundle; recording it twice changes nothing."""
        known = sa.select(_MODELS.c.version).where(_MODELS.c.bundle_digest == model.bundle_digest)
        with self._transaction() as connection:
            if connection.scalar(known) is None:
                connection.execute(_MODELS.insert().values(_columns(model)))

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""
        query = (
            sa.select(_MODELS)
            .where(_MODELS.c.model_digest == model_digest)
            .order_by(_MODELS.c.version.desc())
            .limit(1)
        )
        return self._find_record(query)

    def find_bundle(self, bundle_digest: bytes) -> ModelRecord | None:
        """Return a bundle that was published, or None."""
        return self._find_record(sa.select(_MODELS).where(_MODELS.c.bundle_digest == bundle_digest))

    def find_plan(self, subject: str, model_digest: bytes) -> PlanRecord | None:
        """Return a subject's newest plan for a model, or None."""
        return self.find_plans([(subject, model_digest)])[0]

    def find_plans(self, rows: Sequence[tuple[str, bytes]]) -> list[PlanRecord | None]:
        """Return the newest plan, or None, for each pair of a subject and a model's digest."""
        found: dict[tuple[str, bytes], PlanRecord] = {}
        with self._transaction() as connection:
            for digest in {digest for _, digest in rows}:
                subjects = [subject for subject, model in rows if model == digest]
                values = {"model_digest_": digest, "subjects_": subjects}
                for row in connection.execute(_FIND_PLANS, values).mappings():
                    found[row["subject"], digest] = PlanRecord(**row)
        return [found.get(row) for row in rows]

    def swap_plan(self, plan: PlanRecord, *, replaces: int | None) -> bool:
        """Store a plan if the newest one still has version ``replaces``."""
        return self.swap_plans([(plan, replaces)])[0]

    def swap_plans(self, swaps: Sequence[PlanSwap]) -> list[bool]:
        """Store each plan if the newest one still has the version that it replaces.

        All share one transaction, because SQLite has one writer and each waits for the disk;
        only when some lose has each to have its own.
        """
        if not swaps:
            return []
        try:
            with self._transaction() as connection:
                _swap_all(connection, swaps)
        except (_DuplicateRowError, _LostSwapError):
            if len(swaps) == 1:
                return [False]
            return [won for swap in swaps for won in self.swap_plans([swap])]
        return [True] * len(swaps)

    def _find_record(self, query: sa.Select[Any]) -> ModelRecord | None:
        with self._transaction() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else ModelRecord(**row)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """One transaction; the only place where the driver's errors become ours."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError as exc:
            raise _DuplicateRowError("a row with this key exists already") from exc
        except SQLAlchemyError as exc:
            raise StoreError(
                f"the database {self._engine.url.render_as_string()!r} failed; "
                "look at disk space and permissions, then try again"
            ) from exc


class _DuplicateRowError(StoreError):
    """An insert met a row with the same key."""


class _LostSwapError(StoreError):
    """A row was not what a swap expected."""


def sqlite_engine(path: Path) -> sa.Engine:
    """Return where to connect for a SQLite file, which need not exist yet."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))
    sa.event.listen(engine, "connect", _configure_sqlite)
    return engine


def _swap_all(connection: sa.Connection, swaps: Sequence[PlanSwap]) -> None:
    """Store all plans; raises ``_LostSwapError`` when one of them loses."""
    first = [_columns(plan) for plan, replaces in swaps if replaces is None]
    later = [
        {
            **_columns(plan),
            "subject_": plan.subject,
            "model_digest_": plan.model_digest,
            "version_": replaces,
        }
        for plan, replaces in swaps
        if replaces is not None
    ]
    for statement, rows in ((_INSERT_PLAN, first), (_UPDATE_PLAN, later)):
        if rows and connection.execute(statement, rows).rowcount != len(rows):
            raise _LostSwapError("another writer came first")


def _columns(record: DeviceRecord | ModelRecord | PlanRecord) -> dict[str, object]:
    """Return a record's fields by name; columns are named alike."""
    return {name: getattr(record, name) for name in record.__slots__}


def _configure_sqlite(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
    """Let readers go on beside a writer, and let writers wait for each other."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
