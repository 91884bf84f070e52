# SPDX-License-Identifier: Apache-2.0
"""Plans, in SQL; hundreds of them take a few statements."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import sqlalchemy as sa

from pocketrec_cloud.delivery.records import PlanRecord, PlanSwap
from pocketrec_cloud.delivery.stores.schema import PLANS, columns_of, record_of, select_records
from pocketrec_cloud.delivery.stores.sql_part import SqlPart, in_chunks

__all__ = ["SqlPlans"]

_FIND_PLANS = (
    select_records(PLANS, PlanRecord)
    .where(PLANS.c.model_digest == sa.bindparam("model_digest_"))
    .where(PLANS.c.subject.in_(sa.bindparam("subjects_", expanding=True)))
)

_SQLITE_INSERT = PLANS.insert().prefix_with("OR IGNORE").execution_options(preserve_rowcount=True)
_SQLITE_UPDATE = (
    PLANS.update()
    .where(PLANS.c.subject == sa.bindparam("subject_"))
    .where(PLANS.c.model_digest == sa.bindparam("model_digest_"))
    .where(PLANS.c.version == sa.bindparam("version_"))
)

# All rows are one parameter, and rows are locked in one order, or writers would wait for each
# other in a circle.
_POSTGRES_ROWS = """
    SELECT subject, decode(model_digest, 'base64') AS model_digest, version, planner,
        budget_bytes, issued_at_s, expires_at_s, decode(container, 'base64') AS container,
        replaces
    FROM json_to_recordset(CAST(:rows AS json)) AS row(
        subject text, model_digest text, version bigint, planner text, budget_bytes bigint,
        issued_at_s bigint, expires_at_s bigint, container text, replaces bigint)
"""
_POSTGRES_INSERT = sa.text(f"""
    WITH offered AS ({_POSTGRES_ROWS})
    INSERT INTO plans (subject, model_digest, version, planner, budget_bytes, issued_at_s,
        expires_at_s, container)
    SELECT subject, model_digest, version, planner, budget_bytes, issued_at_s, expires_at_s,
        container
    FROM offered ORDER BY subject, model_digest
    ON CONFLICT DO NOTHING
    RETURNING subject, model_digest
""")  # noqa: S608  all of it is ours
_POSTGRES_UPDATE = sa.text(f"""
    WITH offered AS ({_POSTGRES_ROWS}), held AS (
        SELECT plans.subject, plans.model_digest
        FROM plans JOIN offered USING (subject, model_digest)
        WHERE plans.version = offered.replaces
        ORDER BY plans.subject, plans.model_digest
        FOR UPDATE OF plans)
    UPDATE plans SET version = offered.version, planner = offered.planner,
        budget_bytes = offered.budget_bytes, issued_at_s = offered.issued_at_s,
        expires_at_s = offered.expires_at_s, container = offered.container
    FROM offered JOIN held USING (subject, model_digest)
    WHERE plans.subject = offered.subject AND plans.model_digest = offered.model_digest
    RETURNING plans.subject, plans.model_digest
""")  # noqa: S608  all of it is ours


class SqlPlans(SqlPart):
    """The part of a SQL store that is a ``PlanStore``."""

    def find_plans(self, rows: Sequence[tuple[str, bytes]]) -> list[PlanRecord | None]:
        """Return the newest plan, or None, for each pair of a subject and a model's digest."""
        subjects: dict[bytes, list[str]] = {}
        for subject, digest in rows:
            subjects.setdefault(digest, []).append(subject)
        found: dict[tuple[str, bytes], PlanRecord] = {}
        with self._database.read() as connection:
            for digest, of_model in subjects.items():
                for chunk in in_chunks(of_model):
                    values = {"model_digest_": digest, "subjects_": list(chunk)}
                    for row in connection.execute(_FIND_PLANS, values):
                        found[row.subject, digest] = record_of(PlanRecord, row)
        return [found.get(row) for row in rows]

    def swap_plans(self, swaps: Sequence[PlanSwap]) -> list[bool]:
        """Store each plan if the newest one still has the version that it replaces.

        All share one transaction, because each waits for the disk.
        """
        if not swaps:
            return []
        if self._database.is_postgres:
            with self._database.write() as connection:
                return _swap_in_postgres(connection, swaps)
        try:
            with self._database.write() as connection:
                _swap_all_in_sqlite(connection, swaps)
        except _LostError:
            with self._database.write() as connection:
                return [_swap_in_sqlite(connection, swap) for swap in swaps]
        return [True] * len(swaps)


class _LostError(Exception):
    """Some plan was not what a swap expected."""


def _swap_all_in_sqlite(connection: sa.Connection, swaps: Sequence[PlanSwap]) -> None:
    """Store all plans, the cheaper way; raises ``_LostError`` when one of them loses."""
    for statement, rows in (
        (_SQLITE_INSERT, [_values(swap) for swap in swaps if swap[1] is None]),
        (_SQLITE_UPDATE, [_values(swap) for swap in swaps if swap[1] is not None]),
    ):
        if rows and connection.execute(statement, rows).rowcount != len(rows):
            raise _LostError


def _swap_in_sqlite(connection: sa.Connection, swap: PlanSwap) -> bool:
    statement = _SQLITE_INSERT if swap[1] is None else _SQLITE_UPDATE
    return connection.execute(statement, _values(swap)).rowcount == 1


def _values(swap: PlanSwap) -> dict[str, object]:
    plan, replaces = swap
    if replaces is None:
        return columns_of(plan)
    return {
        **columns_of(plan),
        "subject_": plan.subject,
        "model_digest_": plan.model_digest,
        "version_": replaces,
    }


def _swap_in_postgres(connection: sa.Connection, swaps: Sequence[PlanSwap]) -> list[bool]:
    won: set[tuple[str, bytes]] = set()
    for statement, rows in (
        (_POSTGRES_INSERT, [swap for swap in swaps if swap[1] is None]),
        (_POSTGRES_UPDATE, [swap for swap in swaps if swap[1] is not None]),
    ):
        if rows:
            values = {"rows": json.dumps([_json_row(swap) for swap in rows])}
            won.update((row[0], bytes(row[1])) for row in connection.execute(statement, values))
    return [(plan.subject, plan.model_digest) in won for plan, _ in swaps]


def _json_row(swap: PlanSwap) -> dict[str, object]:
    plan, replaces = swap
    return {
        **columns_of(plan),
        "model_digest": base64.b64encode(plan.model_digest).decode(),
        "container": base64.b64encode(plan.container).decode(),
        "replaces": replaces,
    }
