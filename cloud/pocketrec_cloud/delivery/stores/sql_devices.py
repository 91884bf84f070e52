# SPDX-License-Identifier: Apache-2.0
"""Devices, their tokens and reports, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from pocketrec_cloud.delivery.records import DeviceRecord, DeviceSession, DeviceStatusRecord
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.schema import (
    CHALLENGES,
    DEVICES,
    STATUSES,
    columns_of,
    record_of,
    select_records,
)
from pocketrec_cloud.delivery.stores.sql_part import SqlPart, in_chunks, upsert

__all__ = ["SqlDevices"]

# Servers' clocks differ: a challenge is forgotten when it is good on none of them.
_FORGET_AFTER_S = 600
_FORGET_AT_ONCE = 100

_PUT_DEVICE = upsert(DEVICES, keep=("created_at_s", "revoked_at_s"))
_PUT_STATUS = upsert(STATUSES)
_USE_CHALLENGE = upsert(CHALLENGES, keep=("expires_at_s",))
_FORGET_CHALLENGES = CHALLENGES.delete().where(
    CHALLENGES.c.challenge.in_(
        sa.select(CHALLENGES.c.challenge)
        .where(CHALLENGES.c.expires_at_s < sa.bindparam("before_s"))
        .limit(_FORGET_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
)
_FIND_DEVICE = select_records(DEVICES, DeviceRecord).where(
    DEVICES.c.device_id == sa.bindparam("device_id")
)
_FIND_SESSION = (
    sa.select(DEVICES.c.device_id, DEVICES.c.token_expires_at_s)
    .where(DEVICES.c.token_sha256 == sa.bindparam("token_sha256"))
    .where(DEVICES.c.revoked_at_s == 0)
)
_FIND_STATUSES = (
    select_records(STATUSES, DeviceStatusRecord)
    .where(STATUSES.c.model_name == sa.bindparam("model_name"))
    .where(STATUSES.c.device_id.in_(sa.bindparam("device_ids", expanding=True)))
)


class SqlDevices(SqlPart):
    """The part of a SQL store that is a ``DeviceStore``."""

    def put_device(
        self, device: DeviceRecord, *, challenge: bytes, challenge_expires_at_s: int
    ) -> bool:
        """Store a registration, unless its challenge was used before; see ``DeviceStore``."""
        used = {"challenge": challenge, "expires_at_s": challenge_expires_at_s}
        with self._database.write() as connection:
            if self._execute(connection, _USE_CHALLENGE, used).rowcount == 0:
                return False
            self._execute(connection, _PUT_DEVICE, columns_of(device))
            connection.execute(_FORGET_CHALLENGES, {"before_s": device.seen_at_s - _FORGET_AFTER_S})
        return True

    def find_device(self, device_id: str) -> DeviceRecord | None:
        """Return a device, or None."""
        with self._database.read() as connection:
            row = connection.execute(_FIND_DEVICE, {"device_id": device_id}).first()
        return None if row is None else record_of(DeviceRecord, row)

    def find_session(self, token_sha256: bytes) -> DeviceSession | None:
        """Return whom a token stands for, expired or not; None if unknown or revoked."""
        with self._database.read() as connection:
            row = connection.execute(_FIND_SESSION, {"token_sha256": token_sha256}).first()
        return None if row is None else DeviceSession(device_id=row[0], expires_at_s=row[1])

    def revoke_device(self, device_id: str, at_s: int) -> bool:
        """Revoke a device; False when it is unknown. Revoking twice changes nothing."""
        device = DEVICES.c.device_id == device_id
        revoke = DEVICES.update().where(device, DEVICES.c.revoked_at_s == 0)
        with self._database.write() as connection:
            if connection.execute(revoke.values(revoked_at_s=at_s)).rowcount:
                self._database.tell(connection, Change.DEVICES)
                return True
            return connection.scalar(sa.select(DEVICES.c.device_id).where(device)) is not None

    def list_devices(self, *, after: str, limit: int) -> list[DeviceRecord]:
        """Return devices in the order of their ids, those after one of them."""
        query = select_records(DEVICES, DeviceRecord).where(DEVICES.c.device_id > after)
        query = query.order_by(DEVICES.c.device_id).limit(limit)
        with self._database.read() as connection:
            return [record_of(DeviceRecord, row) for row in connection.execute(query)]

    def put_status(self, status: DeviceStatusRecord) -> None:
        """Remember what a device reported; the report before it is replaced."""
        with self._database.write() as connection:
            self._execute(connection, _PUT_STATUS, columns_of(status))

    def find_statuses(
        self, device_ids: Sequence[str], model_name: str
    ) -> dict[str, DeviceStatusRecord]:
        """Return the last reports about a model line, by device, where there are any."""
        found: dict[str, DeviceStatusRecord] = {}
        with self._database.read() as connection:
            for chunk in in_chunks(device_ids):
                values = {"model_name": model_name, "device_ids": list(chunk)}
                for row in connection.execute(_FIND_STATUSES, values):
                    found[row.device_id] = record_of(DeviceStatusRecord, row)
        return found
