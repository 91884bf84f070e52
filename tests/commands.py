# SPDX-License-Identifier: Apache-2.0
"""Runs commands through the root, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from click.testing import CliRunner, Result

from pocketrec.cli import COMMAND_GROUP, ExitCode, make_root


def run_command(commands: Mapping[str, str], *words: object) -> Result:
    """Run one command through the root, which turns errors into exit codes.

    Args:
        commands: Entry points of the root, by name.
        words: What is typed.
    """
    root = make_root([EntryPoint(name, value, COMMAND_GROUP) for name, value in commands.items()])
    runner = CliRunner(env={"COLUMNS": "200"})
    return runner.invoke(root, [str(word) for word in words])


def run_command_json(commands: Mapping[str, str], *words: object) -> dict[str, Any]:
    """Run one command that succeeds, and return its JSON."""
    result = run_command(commands, *words, "--json", "-")
    assert result.exit_code == ExitCode.OK, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document
