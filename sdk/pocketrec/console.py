# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables for people on stdout, JSON for programs, progress on stderr.

A command computes one mapping, gives it to `emit`, and says how to draw it::

    @click.command()
    @json_option
    def status(json_path: str | None) -> None:
        result = {"version": 3}
        emit(result, render=lambda console: console.print("version 3"), json_path=json_path)

``--json -`` prints the mapping instead of the table, so that stdout can be piped;
``--json PATH`` writes it and draws the table as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
import numpy as np
from rich.console import Console

from pocketrec.files import write_atomically

__all__ = ["emit", "json_option", "json_text", "stderr_console", "stdout_console"]

P = ParamSpec("P")
R = TypeVar("R")


def json_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--json PATH|-`` to a command, as its argument ``json_path``.

    Args:
        command: The function below ``@click.command()``.
    """
    return click.option(
        "--json",
        "json_path",
        metavar="PATH|-",
        type=click.Path(dir_okay=False, allow_dash=True),
        help="Write the result as JSON to PATH; '-' prints it instead of the table.",
    )(command)


def stdout_console() -> Console:
    """Return the console for results: tables that a person reads, or pipes."""
    return Console(highlight=False)


def stderr_console() -> Console:
    """Return the console for everything that is no result: progress and remarks."""
    return Console(stderr=True, highlight=False)


def emit(
    result: Mapping[str, object],
    *,
    render: Callable[[Console], None],
    json_path: str | None = None,
) -> None:
    """Show a command's result to a person, to a program, or to both.

    Args:
        result: What the command found, with keys that stay the same between releases.
        render: Draws it on the console it is given.
        json_path: Where the JSON goes; ``"-"`` is stdout, None is nowhere.

    Raises:
        OSError: The file cannot be written.
        ValueError: A number is NaN or infinite, which JSON does not know.
        TypeError: A value has no JSON form.
    """
    if json_path == "-":
        click.echo(json_text(result))
        return
    if json_path is not None:
        write_atomically(Path(json_path), f"{json_text(result)}\n".encode())
    render(stdout_console())


def json_text(result: Mapping[str, object]) -> str:
    """Return a result as indented JSON, in the order of its keys.

    NumPy scalars and arrays become numbers and lists, bytes hexadecimal, paths text.

    Args:
        result: What to encode.

    Raises:
        ValueError: A number is NaN or infinite.
        TypeError: A value has no JSON form.
    """
    return json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False, default=_json_value)


def _json_value(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"expected a value that JSON can hold, got {type(value).__name__}: {value!r}")
