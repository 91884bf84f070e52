# SPDX-License-Identifier: Apache-2.0
"""Makes the tables of a database, or brings them up to date, with the scripts in ``migrations``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.stores.database import Database
from pocketrec_cloud.delivery.stores.locks import lock_beside, lock_in_postgres
from pocketrec_cloud.delivery.stores.postgres import PostgresAddress
from pocketrec_cloud.delivery.stores.schema import HEAD

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

__all__ = ["ensure_newest", "migrate", "read_revision"]

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK_TIMEOUT_S = 300.0
_FIRST = "0001"
_VERSION = sa.table("alembic_version", sa.column("version_num", sa.Text))


def read_revision(database: Database) -> str | None:
    """Return the revision that a database's tables are; None when there are none.

    Tables of before there were revisions count as the first one.

    Raises:
        StoreError: The database fails.
    """
    with database.read() as connection:
        names = set(sa.inspect(connection).get_table_names())
        if _VERSION.name in names:
            revision: str | None = connection.scalar(sa.select(_VERSION.c.version_num))
            return revision
        return _FIRST if "devices" in names else None


def ensure_newest(database: Database) -> None:
    """Bring a database up to date unless it is; many processes may do so at once.

    Raises:
        StoreError: The database fails, or is of a newer release.
    """
    if read_revision(database) != HEAD:
        migrate(database, HEAD)


def migrate(database: Database, revision: str) -> None:
    """Bring a database to a revision, up or down, in one transaction.

    Args:
        database: What to change; others wait meanwhile.
        revision: Its name, such as "0002".

    Raises:
        StoreError: The database fails, or is of a newer release.
    """
    with _locked(database):
        database.prepare()
        current = read_revision(database)
        scripts = _scripts()
        known = {script.revision for script in scripts.walk_revisions()}
        if current is not None and current not in known:
            raise StoreError(
                f"the database {database.name!r} has revision {current!r}, which this release "
                f"does not know (its newest is {HEAD!r}); install the release that wrote it"
            )
        if current != revision:
            with database.migrating() as connection:
                _run(connection, scripts, current, revision)


def _run(
    connection: sa.Connection, scripts: ScriptDirectory, current: str | None, revision: str
) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    is_down = current is not None and current > revision
    move: Callable[..., Any] = scripts._downgrade_revs if is_down else scripts._upgrade_revs  # noqa: SLF001  as alembic's own commands do
    context = MigrationContext.configure(
        connection, opts={"fn": lambda heads, _: move(revision, heads)}
    )
    if current == _FIRST and context.get_current_revision() is None:
        context.stamp(scripts, _FIRST)
    with Operations.context(context):
        context.run_migrations()


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(_SCRIPTS))


def _locked(database: Database) -> AbstractContextManager[None]:
    target = database.target
    if isinstance(target, PostgresAddress):
        return lock_in_postgres(target, "migrate", timeout_s=_LOCK_TIMEOUT_S)
    return lock_beside(target, "migrate", timeout_s=_LOCK_TIMEOUT_S)
