# SPDX-License-Identifier: Apache-2.0
"""Admins and the log of what they did, in SQL."""

from __future__ import annotations

from dataclasses import replace

from pocketrec_cloud.delivery.records import AdminRecord, AuditRecord
from pocketrec_cloud.delivery.stores.database import next_number, use_number
from pocketrec_cloud.delivery.stores.schema import (
    ADMINS,
    AUDIT,
    columns_of,
    record_of,
    select_records,
)
from pocketrec_cloud.delivery.stores.sql_part import SqlPart, upsert

__all__ = ["SqlAdmins"]

_PUT_ADMIN = upsert(ADMINS)


class SqlAdmins(SqlPart):
    """The part of a SQL store that is an ``AdminStore`` and an ``AuditStore``."""

    def put_admin(self, admin: AdminRecord) -> None:
        """Store an admin; one of the same name is replaced.

        Raises:
            StoreError: Another admin has this token, or the database fails.
        """
        with self._database.write() as connection:
            self._execute(connection, _PUT_ADMIN, columns_of(admin))

    def find_admin(self, token_sha256: bytes) -> AdminRecord | None:
        """Return the admin of a token, expired or not, or None."""
        query = select_records(ADMINS, AdminRecord).where(ADMINS.c.token_sha256 == token_sha256)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else record_of(AdminRecord, row)

    def list_admins(self) -> list[AdminRecord]:
        """Return all admins, by name."""
        query = select_records(ADMINS, AdminRecord).order_by(ADMINS.c.name)
        with self._database.read() as connection:
            return [record_of(AdminRecord, row) for row in connection.execute(query)]

    def remove_admin(self, name: str) -> bool:
        """Forget an admin; False when there is none of this name."""
        with self._database.write() as connection:
            return connection.execute(ADMINS.delete().where(ADMINS.c.name == name)).rowcount > 0

    def add_audit(self, entry: AuditRecord) -> None:
        """Append an entry under the next number."""
        with self._database.write() as connection:
            number = next_number(connection, AUDIT.name)
            connection.execute(AUDIT.insert(), columns_of(replace(entry, number=number)))
            use_number(connection, AUDIT.name, number)

    def list_audit(self, *, after: int, limit: int) -> list[AuditRecord]:
        """Return entries after a number, in order."""
        query = select_records(AUDIT, AuditRecord).where(AUDIT.c.number > after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(AUDIT.c.number).limit(limit))
            return [record_of(AuditRecord, row) for row in rows]
