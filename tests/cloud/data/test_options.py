# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pocketrec.errors import ConfigError, DataError
from pocketrec_cloud.data.options import data_options, read_split


@click.command()
@data_options
def shown(**options: Any) -> None:
    """Say which options came."""
    click.echo(sorted(options.items()))


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Four events of two users, under names of their own."""
    path = tmp_path / "events.csv"
    rows = ["who,what,when", "a,x,3", "a,y,1", "a,z,2", "b,x,1"]
    path.write_text("\n".join(rows) + "\n")
    return path


class TestOptions:
    def test_a_command_gets_all_of_them(self, csv: Path) -> None:
        """As keywords; what is left out is None, or the format that is found out."""
        result = CliRunner().invoke(shown, ["--data", str(csv), "--time-column", "when"])

        for pair in ("('data_format', 'auto')", "('time_column', 'when')", "('user_column', None)"):
            assert pair in result.output

    @pytest.mark.parametrize("words", [[], ["--data", "nowhere.csv"], ["--format", "xls"]])
    def test_a_file_is_needed(self, words: list[str]) -> None:
        """One that exists, in a format that there is."""
        assert CliRunner().invoke(shown, words).exit_code == 2


class TestReadSplit:
    def test_columns_may_be_named(self, csv: Path) -> None:
        """Events come in order of time, and the last two are held out."""
        split = read_split(csv, "auto", user="who", item="what", time="when")

        ids = split.dataset.item_ids
        assert [ids[i - 1] for i in split.dataset.sequence(0)] == ["y", "z", "x"]
        assert split.users.tolist() == [0]
        assert ids[split.target(0, "test") - 1] == "x"

    def test_columns_left_out_are_the_usual_ones(self, tmp_path: Path) -> None:
        """A name of None is no name."""
        path = tmp_path / "events.txt"
        path.write_text("a x y z\n")

        split = read_split(path, "sequences", user=None, item=None, time=None)

        assert split.dataset.n_events == 3

    def test_too_little_is_refused(self, tmp_path: Path) -> None:
        """Nothing is left to train on."""
        path = tmp_path / "events.txt"
        path.write_text("a x y\n")

        with pytest.raises(DataError, match="at least 3 events"):
            read_split(path, "auto")

    def test_columns_of_a_file_without_names_are_refused(self, tmp_path: Path) -> None:
        """There is nothing to look for."""
        path = tmp_path / "events.txt"
        path.write_text("a x y z\n")

        with pytest.raises(ConfigError):
            read_split(path, "sequences", user="who")
