# SPDX-License-Identifier: Apache-2.0
"""The tables of the first release: devices, models and plans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "devices",
        sa.Column("device_id", sa.String(32), primary_key=True),
        sa.Column("token_sha256", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("app_version", sa.Text, nullable=False),
        sa.Column("os", sa.Text, nullable=False),
        sa.Column("ram_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at_s", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("bundle_digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("model_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_models_model_digest", "models", ["model_digest"])
    op.create_table(
        "plans",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("model_digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("planner", sa.Text, nullable=False),
        sa.Column("budget_bytes", sa.BigInteger, nullable=False),
        sa.Column("issued_at_s", sa.BigInteger, nullable=False),
        sa.Column("expires_at_s", sa.BigInteger, nullable=False),
        sa.Column("container", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("plans", "models", "devices"):
        op.drop_table(name)
