# SPDX-License-Identifier: Apache-2.0
"""What the parts of a SQL store share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pocketrec_cloud.delivery.stores.database import Database

__all__ = ["SqlPart", "Upsert", "in_chunks", "upsert"]

_Item = TypeVar("_Item")
_CHUNK = 5000  # below what either database takes as parameters of one statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsert:
    """One statement in the words of either database, built once: that takes longer than to run."""

    sqlite: sa.Executable
    postgres: sa.Executable


class SqlPart:
    """One concern of a SQL store.

    Args:
        database: Where the rows are; its tables exist.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def _execute(
        self, connection: sa.Connection, statement: Upsert, values: Mapping[str, object]
    ) -> sa.CursorResult[Any]:
        words = statement.postgres if self._database.is_postgres else statement.sqlite
        result: sa.CursorResult[Any] = connection.execute(words, values)
        return result


def upsert(table: sa.Table, *, keep: Sequence[str] = ()) -> Upsert:
    """Return how to insert a row, or to replace what one of the same key says.

    Args:
        table: Where to.
        keep: Columns that stay as they are; if it is all of them, the row counts as not
            written.
    """
    keys = [column.name for column in table.primary_key]
    changing = [column.name for column in table.c if column.name not in (*keys, *keep)]
    words = []
    for insert in (sqlite.insert(table), postgresql.insert(table)):
        if changing:
            values = {name: insert.excluded[name] for name in changing}
            words.append(insert.on_conflict_do_update(index_elements=keys, set_=values))
        else:
            words.append(insert.on_conflict_do_nothing(index_elements=keys))
    counted = [statement.execution_options(preserve_rowcount=True) for statement in words]
    return Upsert(sqlite=counted[0], postgres=counted[1])


def in_chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Yield the items in pieces that one statement can take."""
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
