# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from pocketrec.console import emit, json_option, json_text, stderr_console


@click.command()
@json_option
def sample(json_path: str | None) -> None:
    """Show a small result."""

    def render(console: Console) -> None:
        console.print("a table")

    emit({"b": 1, "a": [2]}, render=render, json_path=json_path)


def run(*args: str) -> Result:
    """Run the sample command."""
    return CliRunner().invoke(sample, list(args))


class TestEmit:
    def test_a_person_gets_the_table(self) -> None:
        """Without --json only the table is drawn."""
        assert run().stdout == "a table\n"

    def test_a_dash_prints_only_json(self) -> None:
        """--json - keeps stdout clean for programs."""
        assert json.loads(run("--json", "-").stdout) == {"b": 1, "a": [2]}

    def test_a_path_gets_json_and_the_person_the_table(self, tmp_path: Path) -> None:
        """--json PATH writes the file and draws the table as well."""
        path = tmp_path / "result.json"

        result = run("--json", str(path))

        assert result.stdout == "a table\n"
        assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": [2]}
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failed_write_is_an_os_error(self, tmp_path: Path) -> None:
        """A file in a folder that does not exist is the system's error, untouched."""
        result = run("--json", str(tmp_path / "absent" / "result.json"))

        assert isinstance(result.exception, FileNotFoundError)


class TestJsonText:
    def test_foreign_values_have_a_form(self) -> None:
        """NumPy values, bytes and paths become numbers, hexadecimal and text."""
        values = {
            "scalar": np.float32(0.5),
            "array": np.arange(2),
            "digest": b"\x01\xff",
            "path": Path("a/b"),
        }

        assert json.loads(json_text(values)) == {
            "scalar": 0.5,
            "array": [0, 1],
            "digest": "01ff",
            "path": "a/b",
        }

    def test_keys_keep_their_order(self) -> None:
        """The order of the mapping is the order of the text."""
        assert json_text({"b": 1, "a": 2}) == '{\n  "b": 1,\n  "a": 2\n}'

    def test_nan_is_refused(self) -> None:
        """JSON has no NaN, so none is written."""
        with pytest.raises(ValueError, match="not JSON compliant"):
            json_text({"a": float("nan")})

    def test_an_unknown_type_is_named(self) -> None:
        """A value without a JSON form is named in the error."""
        with pytest.raises(TypeError, match="got set"):
            json_text({"a": {1}})


def test_progress_goes_to_stderr() -> None:
    """What is no result is kept out of stdout."""
    assert stderr_console().stderr
