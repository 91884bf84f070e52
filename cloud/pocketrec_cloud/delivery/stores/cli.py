# SPDX-License-Identifier: Apache-2.0
"""The commands ``store upgrade`` and ``store status``."""

from __future__ import annotations

from contextlib import closing

import click

from pocketrec.console import emit, json_option
from pocketrec_cloud.delivery.stores.migration import ensure_newest, read_revision
from pocketrec_cloud.delivery.stores.opening import open_database
from pocketrec_cloud.delivery.stores.schema import HEAD

__all__ = ["store_status", "store_upgrade"]

_database_option = click.option(
    "--database",
    required=True,
    metavar="URL",
    help="A SQLite file, or postgresql://USER@HOST/DATABASE; PGPASSWORD may hold the password.",
)


@click.command()
@_database_option
@json_option
def store_upgrade(database: str, json_path: str | None) -> None:
    """Make the tables of a database, or bring them up to date.

    A server does so by itself when it starts. Take a copy of the database before.
    """
    with closing(open_database(database)) as opened:
        before = read_revision(opened)
        ensure_newest(opened)
        name = opened.name
    emit(
        {"database": name, "before": before, "revision": HEAD},
        render=lambda console: console.print(
            f"{name}: revision {HEAD}, was {before or 'empty'}", soft_wrap=True, markup=False
        ),
        json_path=json_path,
    )


@click.command()
@_database_option
@json_option
def store_status(database: str, json_path: str | None) -> None:
    """Say which revision a database's tables are, and which this release needs."""
    with closing(open_database(database)) as opened:
        revision = read_revision(opened)
        name = opened.name
    result = {
        "database": name,
        "revision": revision,
        "newest": HEAD,
        "is_newest": revision == HEAD,
    }
    emit(
        result,
        render=lambda console: console.print(
            f"{name}: revision {revision or 'empty'}; this release needs {HEAD}",
            soft_wrap=True,
            markup=False,
        ),
        json_path=json_path,
    )
