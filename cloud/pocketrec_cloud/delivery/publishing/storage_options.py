# SPDX-License-Identifier: Apache-2.0
"""The options of commands that work on a deployment's files, records and keys themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

__all__ = ["database_option", "keys_option", "store_option"]

Command = TypeVar("Command", bound=Callable[..., object])


def store_option(*, is_required: bool = True) -> Callable[[Command], Command]:
    """Return ``--store``, which names files."""
    return click.option(
        "--store",
        metavar="FOLDER|URL",
        required=is_required,
        help="Folder of the repository, or s3://BUCKET/PREFIX.",
    )


def database_option(command: Command) -> Command:
    """Add ``--database``, which names records."""
    return click.option(
        "--database",
        metavar="URL",
        default="",
        help="postgresql://..., or a SQLite file; default: pocketrec.db in the store's folder.",
    )(command)


def keys_option(text: str) -> Callable[[Command], Command]:
    """Return ``--keys`` with a help text."""
    return click.option(
        "--keys",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help=text,
    )
