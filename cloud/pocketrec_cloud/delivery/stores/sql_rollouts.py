# SPDX-License-Identifier: Apache-2.0
"""Rollouts and what devices say of them, in SQL."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from pocketrec_cloud.delivery.records import Outcome, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.database import next_number, use_number
from pocketrec_cloud.delivery.stores.schema import (
    OUTCOMES,
    ROLLOUTS,
    columns_of,
    record_of,
    select_records,
)
from pocketrec_cloud.delivery.stores.sql_part import SqlPart, upsert

__all__ = ["SqlRollouts"]

_PUT_OUTCOME = upsert(OUTCOMES, keep=("stage",))
_OPEN_STATES = (RolloutState.RUNNING, RolloutState.PAUSED)


class SqlRollouts(SqlPart):
    """The part of a SQL store that is a ``RolloutStore``."""

    def add_rollout(self, rollout: RolloutRecord) -> RolloutRecord | None:
        """Store a rollout, unless its ``request_id`` is known or its model line is taken."""
        rollouts = select_records(ROLLOUTS, RolloutRecord)
        known = rollouts.where(ROLLOUTS.c.request_id == rollout.request_id)
        taken = rollouts.where(ROLLOUTS.c.model_name == rollout.model_name).where(
            ROLLOUTS.c.state.in_(_OPEN_STATES)
        )
        with self._database.write() as connection:
            number = next_number(connection, Change.ROLLOUTS)
            row = connection.execute(known).first()
            if row is not None:
                return record_of(RolloutRecord, row)
            if connection.execute(taken).first() is not None:
                return None
            values = {**columns_of(rollout), "number": number}
            connection.execute(ROLLOUTS.insert(), values)
            use_number(connection, Change.ROLLOUTS, number)
            self._database.notify(connection, Change.ROLLOUTS)
        return rollout

    def find_rollout(self, rollout_id: str) -> RolloutRecord | None:
        """Return a rollout, or None."""
        query = select_records(ROLLOUTS, RolloutRecord).where(ROLLOUTS.c.rollout_id == rollout_id)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else record_of(RolloutRecord, row)

    def list_rollouts(self, model_name: str = "") -> list[RolloutRecord]:
        """Return the rollouts of a model line, or of all, the oldest first."""
        query = select_records(ROLLOUTS, RolloutRecord).order_by(ROLLOUTS.c.number)
        if model_name:
            query = query.where(ROLLOUTS.c.model_name == model_name)
        with self._database.read() as connection:
            return [record_of(RolloutRecord, row) for row in connection.execute(query)]

    def swap_rollout(self, rollout: RolloutRecord, *, replaces: int) -> bool:
        """Store a rollout if the stored one still has the revision ``replaces``."""
        swap = (
            ROLLOUTS.update()
            .where(ROLLOUTS.c.rollout_id == rollout.rollout_id)
            .where(ROLLOUTS.c.revision == replaces)
            .values(columns_of(rollout))
        )
        with self._database.write() as connection:
            if connection.execute(swap).rowcount == 0:
                return False
            self._database.tell(connection, Change.ROLLOUTS)
        return True

    def count_outcomes(self, rollout_id: str) -> dict[int, Mapping[Outcome, int]]:
        """Return by stage how many devices said what last about a rollout."""
        query = (
            sa.select(OUTCOMES.c.stage, OUTCOMES.c.outcome, sa.func.count())
            .where(OUTCOMES.c.rollout_id == rollout_id)
            .group_by(OUTCOMES.c.stage, OUTCOMES.c.outcome)
        )
        counts: dict[int, dict[Outcome, int]] = {}
        with self._database.read() as connection:
            for stage, outcome, count in connection.execute(query):
                counts.setdefault(stage, {})[outcome] = count
        return dict(counts)

    def put_outcome(self, rollout_id: str, device_id: str, *, stage: int, outcome: Outcome) -> None:
        """Remember what a device says of a rollout, in the stage in which it did so first."""
        values = {
            "rollout_id": rollout_id,
            "device_id": device_id,
            "stage": stage,
            "outcome": outcome,
        }
        with self._database.write() as connection:
            self._execute(connection, _PUT_OUTCOME, values)
