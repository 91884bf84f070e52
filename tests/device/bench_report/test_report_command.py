# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.commands import run_command, run_command_json
from tests.device.bench_report.samples import sample_profile, sample_record, sample_result

from pocketrec.cli import ExitCode
from pocketrec_device.bench_report import write_html, write_markdown

COMMANDS = {"bench.report": "pocketrec_device.bench_report.cli:report"}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result's file."""
    path = tmp_path / "result.json"
    path.write_text(json.dumps(sample_result()))
    return path


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile's file."""
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(sample_profile()))
    return path


class TestReport:
    def test_it_writes_both_and_says_where(
        self, result: Path, profile: Path, tmp_path: Path
    ) -> None:
        """The files are those of the functions."""
        html, markdown = tmp_path / "out.html", tmp_path / "out.md"
        words = ("bench", "report", result, profile, "--html", html, "--markdown", markdown)

        found = run_command_json(COMMANDS, *words)

        assert (found["n_results"], found["n_profiles"], found["n_cells"]) == (1, 1, 8)
        assert [each["n_bytes"] for each in found["written"]] == [
            html.stat().st_size,
            markdown.stat().st_size,
        ]
        write_html(sample_result(), tmp_path / "own.html", [sample_profile()])
        write_markdown(sample_result(), tmp_path / "own.md", [sample_profile()])
        assert html.read_bytes() == (tmp_path / "own.html").read_bytes()
        assert markdown.read_bytes() == (tmp_path / "own.md").read_bytes()

    def test_without_a_file_it_prints_markdown(self, result: Path) -> None:
        """For a pull request, or a pager."""
        done = run_command(COMMANDS, "bench", "report", result)

        assert done.exit_code == ExitCode.OK
        assert "# demo 3: benchmark" in done.stdout
        assert "| uniform-4 · single | 4.50 |" in done.stdout

    @pytest.mark.parametrize("content", ["{", "[]", '{"schema": "other"}'])
    def test_other_files_are_refused(self, tmp_path: Path, content: str) -> None:
        """With their name, and without a page."""
        path = tmp_path / "other.json"
        path.write_text(content)

        done = run_command(COMMANDS, "bench", "report", path, "--html", tmp_path / "out.html")

        assert done.exit_code == ExitCode.USAGE
        assert "other.json" in done.stderr
        assert not (tmp_path / "out.html").exists()

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("latency_us", 3),
            ("quality", {}),
            ("effective_bits", "many"),
            ("processes", [{}]),
            ("variant", "\ud800"),
            ("idle_rss_bytes", None),
        ],
    )
    def test_a_result_of_other_things_is_refused(
        self, tmp_path: Path, key: str, value: object
    ) -> None:
        """Whoever wrote it, there is a message, and no page."""
        path = tmp_path / "odd.json"
        path.write_text(json.dumps(sample_result(records=[sample_record("a") | {key: value}])))

        done = run_command(COMMANDS, "bench", "report", path, "--html", tmp_path / "out.html")

        assert done.exit_code == ExitCode.USAGE, done.output
        assert "expected" in done.stderr
        assert not (tmp_path / "out.html").exists()

    def test_a_profile_alone_is_no_report(self, profile: Path) -> None:
        """There is nothing to compare it with."""
        done = run_command(COMMANDS, "bench", "report", profile)

        assert done.exit_code == ExitCode.USAGE
        assert "at least one result of bench run" in done.stderr
