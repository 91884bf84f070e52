# SPDX-License-Identifier: Apache-2.0
"""What a fleet needs: keys of devices, orders, rollouts, admins, and a log.

Devices of before have no key. They stay listed, with a token that has expired, and register
again under the identity that follows from their key.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COUNTERS = ("orders", "rollouts", "devices", "audit")
_NEW_TABLES = (
    "challenges",
    "statuses",
    "orders",
    "rollouts",
    "outcomes",
    "admins",
    "audit",
    "counters",
)


def upgrade() -> None:
    """Add columns to devices, and the other tables."""
    _extend_devices()
    op.create_table(
        "challenges",
        _blob("challenge", primary_key=True),
        _number("expires_at_s"),
    )
    op.create_index("ix_challenges_expires_at_s", "challenges", ["expires_at_s"])
    op.create_table(
        "statuses",
        _id("device_id", primary_key=True),
        _text("model_name", primary_key=True),
        *(_blob("bundle_digest"), _blob("attempted_bundle_digest"), _number("plan_version")),
        *(_text("outcome"), _text("error"), _number("reported_at_s")),
    )
    _create_orders_and_rollouts()
    op.create_table(
        "outcomes",
        *(_id("rollout_id", primary_key=True), _id("device_id", primary_key=True)),
        *(_number("stage"), _text("outcome")),
    )
    op.create_table(
        "admins",
        *(_id("name", primary_key=True), _text("role"), _blob("token_sha256", unique=True)),
        *(_number("created_at_s"), _number("expires_at_s")),
    )
    op.create_table(
        "audit",
        _number("number", primary_key=True, autoincrement=False),
        *(_number("at_s"), _text("admin"), _text("action"), _text("subject"), _text("details")),
    )
    counters = op.create_table("counters", _text("name", primary_key=True), _number("value"))
    op.bulk_insert(counters, [{"name": name, "value": 0} for name in _COUNTERS])


def downgrade() -> None:
    """Drop what was added; devices that registered since lose their keys."""
    for name in reversed(_NEW_TABLES):
        op.drop_table(name)
    with op.batch_alter_table("devices") as devices:
        for name in ("public_key", "token_expires_at_s", "locale", "tags"):
            devices.drop_column(name)
        for name in ("seen_at_s", "revoked_at_s"):
            devices.drop_column(name)
        devices.alter_column(
            "device_id", type_=sa.String(32), existing_type=sa.Text(), existing_nullable=False
        )


def _extend_devices() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"  # where '' is a text in any column
    added = (
        (_blob, "public_key", sa.text("x''" if is_sqlite else "''")),
        (_number, "token_expires_at_s", sa.text("0")),
        (_text, "locale", sa.text("''")),
        (_text, "tags", sa.text("'[]'")),
        (_number, "seen_at_s", sa.text("0")),
        (_number, "revoked_at_s", sa.text("0")),
    )
    with op.batch_alter_table("devices") as devices:
        for make, name, default in added:
            devices.add_column(make(name, server_default=default))
    op.execute("UPDATE devices SET seen_at_s = created_at_s")
    with op.batch_alter_table("devices") as devices:  # the defaults were for old rows only
        for make, name, _ in added:
            devices.alter_column(
                name, server_default=None, existing_type=make(name).type, existing_nullable=False
            )
        devices.alter_column(
            "device_id",
            type_=_id("device_id").type,
            existing_type=sa.String(32),
            existing_nullable=False,
        )


def _create_orders_and_rollouts() -> None:
    op.create_table(
        "orders",
        _number("sequence", primary_key=True, autoincrement=False),
        *(_text("request_id", unique=True), _text("audience"), _text("audience_value")),
        *(_blob("model_digest"), _text("planner"), _float("average_bits")),
        *(sa.Column("codes", sa.LargeBinary, nullable=False), _number("created_at_s")),
        *(_number("expires_at_s"), _text("admin"), _number("cancels")),
    )
    op.create_table(
        "rollouts",
        *(_id("rollout_id", primary_key=True), _number("number", unique=True)),
        *(_text("request_id", unique=True), _text("model_name"), _blob("bundle_digest")),
        *(_text("planner"), _float("average_bits")),
        *(sa.Column("codes", sa.LargeBinary, nullable=False), _text("cohort")),
        *(_text("stages_percent"), _float("success_threshold"), _float("error_threshold")),
        *(_number("min_reports"), _number("min_stage_s"), _text("state"), _number("stage")),
        *(_text("stages_started_at_s"), _number("created_at_s"), _number("changed_at_s")),
        *(_text("admin"), _text("reason"), _number("revision")),
    )


def _text(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False, **options)


def _id(name: str, **options: Any) -> sa.Column[Any]:
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.Column(name, kind, nullable=False, **options)


def _number(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False, **options)


def _blob(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(32), nullable=False, **options)


def _float(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Double, nullable=False)
