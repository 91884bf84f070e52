# SPDX-License-Identifier: Apache-2.0
"""Every command that the distribution declares, against what the documents say of commands."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest

from pocketrec.cli import COMMAND_GROUP

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]["entry-points"][COMMAND_GROUP]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_takes_json(path: str) -> None:
    """What people see in a table, programs get from any command in the same way."""
    module, name = COMMANDS[path].split(":")

    command = getattr(import_module(module), name)

    assert isinstance(command, click.Command)
    assert "--json" in {option for parameter in command.params for option in parameter.opts}


def test_every_command_is_documented() -> None:
    """The table of commands lists all of them, and nothing else."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    documented = re.findall(r"^\| `([a-z -]+)` \|", page, re.MULTILINE)

    assert sorted(documented) == sorted(path.replace(".", " ") for path in COMMANDS)
