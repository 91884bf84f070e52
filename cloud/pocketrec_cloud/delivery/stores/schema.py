# SPDX-License-Identifier: Apache-2.0
"""The tables of the SQL stores; columns are named like the fields of the records.

``migrations`` makes and changes them in real databases.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, TypeVar

import sqlalchemy as sa

from pocketrec_cloud.delivery.records import (
    AdminRole,
    AudienceKind,
    Outcome,
    RolloutState,
)

__all__ = [
    "ADMINS",
    "AUDIT",
    "CHALLENGES",
    "COUNTERS",
    "DEVICES",
    "HEAD",
    "METADATA",
    "MODELS",
    "ORDERS",
    "OUTCOMES",
    "PLANS",
    "ROLLOUTS",
    "STATUSES",
    "columns_of",
    "record_of",
    "select_records",
]

HEAD = "0002"
"""The revision that these tables are."""

METADATA = sa.MetaData()

_Record = TypeVar("_Record")


class _EnumText(sa.TypeDecorator[StrEnum]):
    """A member of an enumeration, stored as its value."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: StrEnum | None, dialect: sa.Dialect) -> str | None:
        """Return what is stored."""
        del dialect
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> StrEnum | None:
        """Return the member."""
        del dialect
        return None if value is None else self.kind(value)


class _JsonTuple(sa.TypeDecorator[tuple[Any, ...]]):
    """A short tuple of texts or numbers, stored as JSON."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: sa.Dialect) -> str | None:
        """Return what is stored."""
        del dialect
        return None if value is None else json.dumps(value)

    def process_result_value(
        self, value: str | None, dialect: sa.Dialect
    ) -> tuple[Any, ...] | None:
        """Return the tuple."""
        del dialect
        return None if value is None else tuple(json.loads(value))


def _text(name: str, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, **options)


def _id(name: str, **options: Any) -> sa.Column[str]:
    """A text that is ordered by its bytes, whatever the database's language."""
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.Column(name, kind, nullable=False, **options)


def _number(name: str, **options: Any) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, **options)


def _blob(name: str, length: int | None = None, **options: Any) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(length), nullable=False, **options)


def _enum(name: str, kind: type[StrEnum]) -> sa.Column[StrEnum]:
    return sa.Column(name, _EnumText(kind), nullable=False)


def _tuple(name: str) -> sa.Column[tuple[Any, ...]]:
    return sa.Column(name, _JsonTuple, nullable=False)


def _float(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False)


DEVICES = sa.Table(
    "devices",
    METADATA,
    _id("device_id", primary_key=True),
    _blob("token_sha256", 32, unique=True),
    _text("backend"),
    _text("app_version"),
    _text("os"),
    _number("ram_bytes"),
    _number("created_at_s"),
    _blob("public_key", 32),
    _number("token_expires_at_s"),
    _text("locale"),
    _tuple("tags"),
    _number("seen_at_s"),
    _number("revoked_at_s"),
)

CHALLENGES = sa.Table(
    "challenges",
    METADATA,
    _blob("challenge", 32, primary_key=True),
    _number("expires_at_s", index=True),
)

STATUSES = sa.Table(
    "statuses",
    METADATA,
    _id("device_id", primary_key=True),
    _text("model_name", primary_key=True),
    _blob("bundle_digest", 32),
    _blob("attempted_bundle_digest", 32),
    _number("plan_version"),
    _enum("outcome", Outcome),
    _text("error"),
    _number("reported_at_s"),
)

MODELS = sa.Table(
    "models",
    METADATA,
    _blob("bundle_digest", 32, primary_key=True),
    _blob("model_digest", 32, index=True),
    _text("model_name"),
    _number("version"),
)

PLANS = sa.Table(
    "plans",
    METADATA,
    _text("subject", primary_key=True),
    _blob("model_digest", 32, primary_key=True),
    _number("version"),
    _text("planner"),
    _number("budget_bytes"),
    _number("issued_at_s"),
    _number("expires_at_s"),
    _blob("container"),
)

ORDERS = sa.Table(
    "orders",
    METADATA,
    _number("sequence", primary_key=True, autoincrement=False),
    _text("request_id", unique=True),
    _enum("audience", AudienceKind),
    _text("audience_value"),
    _blob("model_digest", 32),
    _text("planner"),
    _float("average_bits"),
    _blob("codes"),
    _number("created_at_s"),
    _number("expires_at_s"),
    _text("admin"),
    _number("cancels"),
)

ROLLOUTS = sa.Table(
    "rollouts",
    METADATA,
    _id("rollout_id", primary_key=True),
    _number("number", unique=True),
    _text("request_id", unique=True),
    _text("model_name"),
    _blob("bundle_digest", 32),
    _text("planner"),
    _float("average_bits"),
    _blob("codes"),
    _text("cohort"),
    _tuple("stages_percent"),
    _float("success_threshold"),
    _float("error_threshold"),
    _number("min_reports"),
    _number("min_stage_s"),
    _enum("state", RolloutState),
    _number("stage"),
    _tuple("stages_started_at_s"),
    _number("created_at_s"),
    _number("changed_at_s"),
    _text("admin"),
    _text("reason"),
    _number("revision"),
)

OUTCOMES = sa.Table(
    "outcomes",
    METADATA,
    _id("rollout_id", primary_key=True),
    _id("device_id", primary_key=True),
    _number("stage"),
    _enum("outcome", Outcome),
)

ADMINS = sa.Table(
    "admins",
    METADATA,
    _id("name", primary_key=True),
    _enum("role", AdminRole),
    _blob("token_sha256", 32, unique=True),
    _number("created_at_s"),
    _number("expires_at_s"),
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    _number("number", primary_key=True, autoincrement=False),
    _number("at_s"),
    _text("admin"),
    _text("action"),
    _text("subject"),
    _text("details"),
)

COUNTERS = sa.Table(
    "counters",
    METADATA,
    _text("name", primary_key=True),
    _number("value"),
)
"""One row for each ``Change``, and "audit": how often it happened, and who may number the next."""


def columns_of(record: object) -> dict[str, object]:
    """Return a record's fields by name."""
    names: tuple[str, ...] = type(record).__slots__  # type: ignore[attr-defined]
    return {name: getattr(record, name) for name in names}


def select_records(table: sa.Table, kind: type[Any]) -> sa.Select[Any]:
    """Return a query for all records of a kind, which are rows of this table."""
    return sa.select(*(table.c[name] for name in kind.__slots__))


def record_of(kind: type[_Record], row: sa.Row[Any]) -> _Record:
    """Return a row of ``select_records`` as a record."""
    return kind(**row._mapping)  # noqa: SLF001  the documented name
