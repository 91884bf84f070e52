# SPDX-License-Identifier: Apache-2.0
"""What the server remembers: devices, published models, the last plan of each subject.

``DeliveryStore`` is the seam; ``SqlStore`` keeps it in a SQL database, SQLite by default.
Tokens are stored as digests only, and no item or event is ever stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from pocketrec.errors import StoreError
from pocketrec_cloud.coalescing import Coalescer

__all__ = [
    "DeliveryStore",
    "DeviceRecord",
    "ModelRecord",
    "PlanRecord",
    "SqlStore",
    "sqlite_engine",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device that registered."""

    device_id: str
    token_sha256: bytes
    backend: str
    app_version: str
    os: str
    ram_bytes: int
    created_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A bundle that was published, and the frozen model inside it."""

    bundle_digest: bytes
    model_digest: bytes
    model_name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """The newest plan of one subject for one model; ``container`` is what was sent."""

    subject: str
    model_digest: bytes
    version: int
    planner: str
    budget_bytes: int
    issued_at_s: int
    expires_at_s: int
    container: bytes


class DeliveryStore(Protocol):
    """Storage of the delivery service; every method is one transaction.

    Raises:
        StoreError: From any method, when the storage fails; the call may be repeated.
    """

    def add_device(self, device: DeviceRecord) -> None:
        """Remember a device; its id and token are new."""

    def find_device(self, token_sha256: bytes) -> str | None:
        """Return the id of the device that holds a token, or None."""

    def record_model(self, model: ModelRecord) -> None:
        """Remember a bundle; recording it twice changes nothing."""

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""

    def find_bundle(self, bundle_digest: bytes) -> ModelRecord | None:
        """Return a bundle that was published, or None."""

    def find_plan(self, subject: str, model_digest: bytes) -> PlanRecord | None:
        """Return a subject's newest plan for a model, or None."""

    def swap_plan(self, plan: PlanRecord, *, replaces: int | None) -> bool:
        """Store a plan if the newest one still has version ``replaces``.

        Returns:
            False when another writer came first; nothing was stored then.
        """


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
_INSERT_PLAN = _PLANS.insert().prefix_with("OR IGNORE", dialect="sqlite")
_UPDATE_PLAN = (
    _PLANS.update()
    .where(_PLANS.c.subject == sa.bindparam("subject_"))
    .where(_PLANS.c.model_digest == sa.bindparam("model_digest_"))
    .where(_PLANS.c.version == sa.bindparam("version_"))
)
_FIND_PLAN = (
    sa.select(_PLANS)
    .where(_PLANS.c.subject == sa.bindparam("subject_"))
    .where(_PLANS.c.model_digest == sa.bindparam("model_digest_"))
)
_MAX_MEETING = 64


class SqlStore:
    """A ``DeliveryStore`` in a SQL database; safe to share between threads.

    Args:
        engine: Where to connect; tables are made when they are missing.

    Raises:
        StoreError: The database cannot be used.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._finds: Coalescer[tuple[str, bytes], PlanRecord | None] = Coalescer(
            self._find_plans, max_size=_MAX_MEETING
        )
        # Swaps that meet share a transaction: SQLite has one writer, and each waits for the disk.
        self._swaps: Coalescer[tuple[PlanRecord, int | None], bool] = Coalescer(
            self._swap_plans, max_size=_MAX_MEETING
        )
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
        return self._finds.ask((subject, model_digest))

    def _find_plans(self, requests: list[tuple[str, bytes]]) -> list[PlanRecord | None]:
        with self._transaction() as connection:
            return [_find(connection, *request) for request in requests]

    def swap_plan(self, plan: PlanRecord, *, replaces: int | None) -> bool:
        """Store a plan if the newest one still has version ``replaces``."""
        try:
            return self._swaps.ask((plan, replaces))
        except _DuplicateRowError:
            return False

    def _find_record(self, query: sa.Select[Any]) -> ModelRecord | None:
        with self._transaction() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else ModelRecord(**row)

    def _swap_plans(self, requests: list[tuple[PlanRecord, int | None]]) -> list[bool]:
        """Store plans in one transaction, which is on disk when this returns."""
        with self._transaction() as connection:
            return [_swap(connection, plan, replaces) for plan, replaces in requests]

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


def sqlite_engine(path: Path) -> sa.Engine:
    """Return where to connect for a SQLite file, which need not exist yet."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))
    sa.event.listen(engine, "connect", _configure_sqlite)
    return engine


def _find(connection: sa.Connection, subject: str, model_digest: bytes) -> PlanRecord | None:
    values = {"subject_": subject, "model_digest_": model_digest}
    row = connection.execute(_FIND_PLAN, values).mappings().first()
    return None if row is None else PlanRecord(**row)


def _swap(connection: sa.Connection, plan: PlanRecord, replaces: int | None) -> bool:
    if replaces is None:
        return connection.execute(_INSERT_PLAN, _columns(plan)).rowcount == 1
    values = {"subject_": plan.subject, "model_digest_": plan.model_digest, "version_": replaces}
    return connection.execute(_UPDATE_PLAN, {**_columns(plan), **values}).rowcount == 1


def _columns(record: DeviceRecord | ModelRecord | PlanRecord) -> dict[str, object]:
    """Return a record's fields by name; columns are named alike."""
    return {name: getattr(record, name) for name in record.__slots__}


def _configure_sqlite(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
    """Let readers go on beside a writer, and let writers wait for each other."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
