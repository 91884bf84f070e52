# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from pocketrec import __version__, cli, errors
from pocketrec.cli import COMMAND_GROUP, SUMMARIES, ExitCode, exit_code_of, make_root

ROOT = Path(__file__).resolve().parents[2]


@click.command()
@click.option("--fail-with", type=click.Choice(["data", "os", "interrupt", "rejected"]))
def sample(fail_with: str | None) -> None:
    """Do nothing, or fail as told."""
    if fail_with == "data":
        raise errors.DataError("expected 4 fields, got 3", path="a.csv", line=7)
    if fail_with == "os":
        raise FileNotFoundError(2, "No such file or directory", "gone.txt")
    if fail_with == "interrupt":
        raise KeyboardInterrupt
    if fail_with == "rejected":
        raise errors.RejectedError("no such plan", code="NOT_FOUND")
    click.echo("done")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that offers the command above, as an installed package would."""
    offering = ModuleType("sample_commands")
    offering.sample = sample  # type: ignore[attr-defined]
    offering.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sample_commands", offering)
    return offering


def run(*args: str, value: str = "sample_commands:sample") -> Result:
    """Run the command line over one sample command and one that cannot be loaded."""
    commands = [
        EntryPoint("sample.run", value, COMMAND_GROUP),
        EntryPoint("absent", "not_loaded_by_help:command", COMMAND_GROUP),
    ]
    return CliRunner().invoke(make_root(commands), list(args))


@pytest.mark.usefixtures("module")
class TestCommands:
    def test_a_dotted_entry_point_is_found_as_words(self) -> None:
        """An entry point named sample.run answers to the words sample run."""
        result = run("sample", "run")

        assert (result.exit_code, result.output) == (0, "done\n")

    def test_help_lists_commands_without_loading_them(self) -> None:
        """A command whose module does not exist is listed all the same."""
        result = run("--help")

        assert result.exit_code == 0
        assert "absent" in result.output
        assert "sample" in result.output

    def test_version(self) -> None:
        """--version prints the program's name and version."""
        assert run("--version").output == f"pocketrec, version {__version__}\n"

    def test_an_unknown_command_is_a_usage_error(self) -> None:
        """A word that is no command ends with the exit code of usage errors."""
        assert run("sample", "walk").exit_code == ExitCode.USAGE

    def test_an_entry_point_that_is_no_command_is_refused(self) -> None:
        """An entry point that names something else says what it found."""
        result = run("sample", "run", value="sample_commands:number")

        assert isinstance(result.exception, TypeError)
        assert "is 3, not a click.Command" in str(result.exception)


@pytest.mark.usefixtures("module")
class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "code", "line"),
        [
            ("data", ExitCode.DATA, "error: a.csv:7: expected 4 fields, got 3\n"),
            ("os", ExitCode.STORE, "error: gone.txt: No such file or directory\n"),
            ("rejected", ExitCode.SERVICE, "error: no such plan\n"),
            ("interrupt", ExitCode.INTERRUPTED, "interrupted\n"),
        ],
    )
    def test_an_error_is_one_line_and_a_code(self, kind: str, code: ExitCode, line: str) -> None:
        """An expected error ends as one line on stderr and its exit code."""
        result = run("sample", "run", "--fail-with", kind)

        assert (result.exit_code, result.stderr, result.stdout) == (code, line, "")

    def test_debug_adds_the_traceback(self) -> None:
        """With --debug the traceback comes before the same line."""
        result = run("--debug", "sample", "run", "--fail-with", "data")

        assert result.exit_code == ExitCode.DATA
        assert "Traceback (most recent call last)" in result.stderr
        assert result.stderr.endswith("error: a.csv:7: expected 4 fields, got 3\n")

    @pytest.mark.parametrize(
        ("value", "package"),
        [
            ("pocketrec_cloud.x:y", "pocketrec[cloud]"),
            ("pocketrec_device.x:y", "pocketrec[device]"),
            ("somebody_else.x:y", "pocketrec"),
        ],
    )
    def test_a_missing_library_names_the_pip_command(
        self, value: str, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A command whose extra is absent says which pip command brings it."""

        def load(entry_point: EntryPoint) -> object:
            raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

        monkeypatch.setattr(EntryPoint, "load", load)

        result = run("sample", "run", value=value)

        assert result.exit_code == ExitCode.BACKEND
        assert result.stderr == (
            "error: 'pocketrec sample run' needs the library 'torch', which is not installed;"
            f" run: pip install '{package}'\n"
        )

    def test_a_missing_module_of_ours_is_no_missing_extra(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A broken import among our own modules is not blamed on the installation."""

        def load(entry_point: EntryPoint) -> object:
            raise ModuleNotFoundError("No module named 'pocketrec_x'", name="pocketrec_x")

        monkeypatch.setattr(EntryPoint, "load", load)

        assert isinstance(run("sample", "run").exception, ModuleNotFoundError)

    def test_every_error_has_an_exit_code_above_one(self) -> None:
        """No error class shares the codes of success and of a failed check."""
        made = [
            errors.DataError("m", path="p"),
            errors.MalformedArtifactError("m", field="f"),
            errors.RollbackError("m", installed=2, offered=1),
            errors.InfeasibleBudgetError("m", requested_bytes=1, minimum_bytes=2),
            errors.ServiceUnavailableError("m", code="UNAVAILABLE"),
            errors.DeadlineError("m", code="DEADLINE_EXCEEDED"),
            errors.RejectedError("m", code="NOT_FOUND"),
        ]
        needing_facts = {type(error) for error in made} | {errors.ServiceError}
        classes = {getattr(errors, name) for name in errors.__all__}
        made += [cls("m") for cls in classes - needing_facts]

        assert min(exit_code_of(error) for error in made) > ExitCode.CHECK_FAILED

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (errors.ConfigError("m"), ExitCode.USAGE),
            (
                errors.InfeasibleBudgetError("m", requested_bytes=1, minimum_bytes=2),
                ExitCode.USAGE,
            ),
            (errors.PlanError("m"), ExitCode.ARTIFACT),
            (errors.HealthCheckError("m"), ExitCode.ARTIFACT),
            (errors.StoreLockedError("m"), ExitCode.STORE),
            (PermissionError("m"), ExitCode.STORE),
            (errors.MissingExtraError("m"), ExitCode.BACKEND),
        ],
    )
    def test_the_family_decides_the_code(
        self, error: errors.PocketRecError | OSError, code: ExitCode
    ) -> None:
        """An error takes the exit code of the first family it belongs to."""
        assert exit_code_of(error) == code


class TestDeclaredCommands:
    def declared(self) -> set[str]:
        """Return the paths of the commands that pyproject.toml declares."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return set(project["entry-points"][COMMAND_GROUP])

    def test_every_declared_command_has_a_summary(self) -> None:
        """Help has one line for every command and group, and none for others."""
        groups = {path.split(".")[0] for path in self.declared() if "." in path}

        assert set(SUMMARIES) == self.declared() | groups

    def test_help_imports_no_heavy_library(self) -> None:
        """The command line module can be imported without the libraries of any extra."""
        assert not {"torch", "grpc", "onnxruntime"} & set(vars(cli))
