# SPDX-License-Identifier: Apache-2.0
"""Options of commands that read interactions, and reading what they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketrec.console import stderr_console
from pocketrec_cloud.data.readers import Columns, InteractionFormat, read_interactions
from pocketrec_cloud.data.report import render_report
from pocketrec_cloud.data.split import LeaveOneOut, leave_one_out

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["data_options", "read_split"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which interactions to read, and how."""
    formats = [str(name) for name in InteractionFormat]
    options = [
        click.option("--data", type=_FILE, required=True, help="File of interactions."),
        click.option("--format", "data_format", type=click.Choice(formats), default="auto"),
        click.option("--user-column", help="Name of the user column, for CSV and Parquet."),
        click.option("--item-column", help="Name of the item column."),
        click.option("--time-column", help="Name of the time column."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_split(data: Path, data_format: str, **columns: str | None) -> LeaveOneOut:
    """Read the interactions, show what became of them, and split them.

    Args:
        data: The file.
        data_format: Of ``InteractionFormat``.
        **columns: ``user``, ``item`` and ``time``, where they are called otherwise.

    Raises:
        ConfigError: Columns are named for a format that has none.
        DataError: The file cannot be read, or no user in it has enough events.
    """
    named = {name: value for name, value in columns.items() if value is not None}
    dataset, report = read_interactions(
        data, format=data_format, columns=Columns(**named) if named else None
    )
    stderr_console().print(render_report(report))
    return leave_one_out(dataset)
