# SPDX-License-Identifier: Apache-2.0
"""The commands ``admins add``, ``admins list`` and ``admins remove``, on the store itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.registry import add_admin, remove_admin
from pocketrec_cloud.delivery.publishing.layout import DATABASE_FILE
from pocketrec_cloud.delivery.records import AdminRecord, AdminRole
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.opening import open_store

__all__ = ["admins_add", "admins_list", "admins_remove"]

P = ParamSpec("P")
R = TypeVar("R")

_DAY_S = 24 * 3600


def _database_options(command: Callable[P, R]) -> Callable[P, R]:
    store = click.option(
        "--store",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="Folder of the repository, if the database lies there.",
    )
    database = click.option("--database", metavar="URL", help="The database, if it is elsewhere.")
    return store(database(command))


@click.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in AdminRole]),
    required=True,
    help="What the admin may do; each may do what those before it may.",
)
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Default: never.")
@_database_options
@json_option
def admins_add(
    *,
    name: str,
    role: str,
    expires_days: int | None,
    store: Path | None,
    database: str | None,
    json_path: str | None,
) -> None:
    """Let NAME call the admin service, and print the token, which is shown this once."""
    now_s = int(time.time())
    expires_at_s = 0 if expires_days is None else now_s + expires_days * _DAY_S
    with _opened(store, database) as opened:
        token = add_admin(opened, name, AdminRole(role), now_s=now_s, expires_at_s=expires_at_s)
    result = {"name": name, "role": role, "expires_at_s": expires_at_s, "token": token}
    stderr_console().print("the token is not stored anywhere: keep it in a file that only you read")
    emit(result, render=lambda console: _draw_token(console, token), json_path=json_path)


@click.command()
@_database_options
@json_option
def admins_list(*, store: Path | None, database: str | None, json_path: str | None) -> None:
    """List who may call the admin service with a token."""
    with _opened(store, database) as opened:
        admins = opened.list_admins()
    emit(
        {
            "admins": [
                {
                    "name": admin.name,
                    "role": admin.role.value,
                    "created_at_s": admin.created_at_s,
                    "expires_at_s": admin.expires_at_s,
                }
                for admin in admins
            ]
        },
        render=lambda console: _draw_admins(console, admins),
        json_path=json_path,
    )


@click.command()
@click.argument("name")
@_database_options
@json_option
def admins_remove(
    *, name: str, store: Path | None, database: str | None, json_path: str | None
) -> None:
    """End the token of the admin NAME."""
    with _opened(store, database) as opened:
        remove_admin(opened, name, now_s=int(time.time()))
    emit(
        {"removed": name},
        render=lambda console: console.print(f"removed {name}", markup=False),
        json_path=json_path,
    )


@contextmanager
def _opened(store: Path | None, database: str | None) -> Iterator[DeliveryStore]:
    if (store is None) == (database is None):
        raise ConfigError("expected either --store FOLDER or --database URL")
    with closing(open_store(database or Path(store or "") / DATABASE_FILE)) as opened:
        yield opened


def _draw_token(console: Console, token: str) -> None:
    console.print(token, soft_wrap=True, markup=False)


def _draw_admins(console: Console, admins: Sequence[AdminRecord]) -> None:
    table = Table("name", "role", "since", "until", box=None)
    for admin in admins:
        until = _day(admin.expires_at_s) if admin.expires_at_s else "-"
        table.add_row(admin.name, admin.role.value, _day(admin.created_at_s), until)
    console.print(table)


def _day(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).date().isoformat()
