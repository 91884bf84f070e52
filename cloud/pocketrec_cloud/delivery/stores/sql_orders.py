# SPDX-License-Identifier: Apache-2.0
"""Orders, in SQL."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from pocketrec_cloud.delivery.records import OrderRecord
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.database import next_number, use_number
from pocketrec_cloud.delivery.stores.schema import (
    COUNTERS,
    ORDERS,
    columns_of,
    record_of,
    select_records,
)
from pocketrec_cloud.delivery.stores.sql_part import SqlPart

__all__ = ["SqlOrders"]


class SqlOrders(SqlPart):
    """The part of a SQL store that is an ``OrderStore``."""

    def add_order(self, order: OrderRecord) -> OrderRecord:
        """Store an order under the next sequence, unless its ``request_id`` is known."""
        known = select_records(ORDERS, OrderRecord).where(ORDERS.c.request_id == order.request_id)
        with self._database.write() as connection:
            sequence = next_number(connection, Change.ORDERS)
            row = connection.execute(known).first()
            if row is not None:
                return record_of(OrderRecord, row)
            stored = replace(order, sequence=sequence)
            connection.execute(ORDERS.insert(), columns_of(stored))
            use_number(connection, Change.ORDERS, sequence)
            self._database.notify(connection, Change.ORDERS)
        return stored

    def list_orders(self, *, after: int) -> list[OrderRecord]:
        """Return all orders after a sequence, in order."""
        query = select_records(ORDERS, OrderRecord).where(ORDERS.c.sequence > after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(ORDERS.c.sequence))
            return [record_of(OrderRecord, row) for row in rows]

    def last_sequence(self) -> int:
        """Return the highest sequence; 0 = there is no order."""
        query = sa.select(COUNTERS.c.value).where(COUNTERS.c.name == Change.ORDERS.value)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())
