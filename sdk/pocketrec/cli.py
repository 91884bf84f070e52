# SPDX-License-Identifier: Apache-2.0
"""The command ``pocketrec``, put together from entry points.

A package offers a command by an entry point of the group ``pocketrec.commands``. Its
name is the path of words a user types, joined by dots: ``bundle.build`` is found as
``pocketrec bundle build``. Nothing is imported before its command is called, so help
is fast and this package depends on neither the cloud's nor the device's side.

Errors that pocketrec raises on purpose end as one line on stderr and the exit code
that `exit_code_of` gives; ``docs/cli.md`` holds the table.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from enum import IntEnum
from importlib.metadata import EntryPoint, entry_points

import click

from pocketrec import __version__
from pocketrec.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    InfeasibleBudgetError,
    MissingExtraError,
    PlanError,
    PocketRecError,
    QuantizationError,
    ServiceError,
    StoreError,
)

__all__ = ["COMMAND_GROUP", "SUMMARIES", "CommandTree", "ExitCode", "exit_code_of", "main"]

COMMAND_GROUP = "pocketrec.commands"

SUMMARIES = {
    "admins": "Say who may call the admin service.",
    "admins.add": "Let somebody call the admin service, and print the token.",
    "admins.list": "List who may call the admin service with a token.",
    "admins.remove": "End an admin's token.",
    "audit": "Show who did what on a server.",
    "bench": "Measure a bundle on this machine.",
    "bench.compare": "Say whether one measurement is worse than another.",
    "bench.report": "Turn results into one page that needs no network, or into Markdown.",
    "bench.run": "Time and size one bundle, and score its ranking.",
    "bundle": "Build, look into, check and publish bundles.",
    "bundle.build": "Quantize and export a trained backbone as a bundle.",
    "bundle.inspect": "Show what a bundle holds.",
    "bundle.promote": "Make a candidate the current bundle of its model.",
    "bundle.publish": "Sign a bundle and put it into a repository.",
    "bundle.replace-items": "Make a bundle again with another item table.",
    "bundle.verify": "Check every digest and part, and run the test vectors.",
    "bundle.withdraw": "Stop vouching for a bundle that is not current.",
    "compress": "Make a trained backbone's item table small.",
    "debug": "Find the layer, operator or backend to blame.",
    "debug.diverge": "Find the first operator at which two backends differ.",
    "debug.layers": "Say which layer of a plan is to blame, and what 8 bits would bring.",
    "debug.profile": "Say where the time of a call goes, operator by operator.",
    "demo": "Run the whole product once, on generated or real interactions.",
    "device": "Act as one device: its store, its bundle, its plan.",
    "device.bootstrap": "Install a bundle folder without a network.",
    "device.capabilities": "Show which kernels this device has.",
    "device.rerank": "Re-rank candidates for a history, offline.",
    "device.rollback": "Go back to the bundle and plan used before.",
    "device.status": "Show what a device's store holds.",
    "device.sync": "Fetch the newest bundle and plan.",
    "devices": "Look at the devices that a server knows, and revoke them.",
    "devices.list": "List devices, what they declare, and what they reported last.",
    "devices.revoke": "End a device's token, and let it register no more.",
    "keys": "Make and replace signing keys, and renew what they sign.",
    "keys.init": "Make a repository's offline and online keys.",
    "keys.renew": "Sign a repository's metadata anew before it expires.",
    "keys.rotate": "Replace one signing key, so that devices follow.",
    "plan": "Make, show and compare plans.",
    "plan.diff": "Compare two plans layer by layer.",
    "plan.make": "Make a plan for a byte budget, or one for every user.",
    "plan.show": "Show a plan as a table, as JSON or as a picture.",
    "planner": "Train what makes personal plans.",
    "planner.train": "Train a personal planner for a backbone.",
    "push": "Let plans of some or all users be like this from now on.",
    "rollout": "Give a bundle or plan settings to devices by and by, or take it back.",
    "rollout.abort": "Take a rollout back from every device.",
    "rollout.list": "List rollouts.",
    "rollout.pause": "Let a rollout neither go on nor stop.",
    "rollout.resume": "Let a paused rollout go on.",
    "rollout.start": "Give a bundle or plan settings to a growing share of devices.",
    "rollout.status": "Show a rollout's stages, and what devices say of it.",
    "serve": "Serve bundles and plans to devices over gRPC.",
    "store": "Look after the server's database.",
    "store.status": "Say which revision a database's tables are.",
    "store.upgrade": "Make a database's tables, or bring them up to date.",
    "train": "Train a backbone on interactions.",
}
"""One line of help per path, kept here so that help imports no command."""

_EXTRAS = {"pocketrec_cloud": "cloud", "pocketrec_device": "device"}
_EXTRAS_BY_LIBRARY = {"executorch": "executorch", "matplotlib": "plots", "ray": "ray"}


class ExitCode(IntEnum):
    """What the process reports to the shell; numbers are never reused."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    DATA = 3
    ARTIFACT = 4
    SERVICE = 5
    STORE = 6
    BACKEND = 7
    INTERRUPTED = 130


def exit_code_of(error: PocketRecError | OSError) -> ExitCode:
    """Return the exit code that says who has to act.

    Args:
        error: The error that ended the command.
    """
    families: tuple[tuple[type[Exception], ExitCode], ...] = (  # the first match counts
        (ConfigError, ExitCode.USAGE),
        (InfeasibleBudgetError, ExitCode.USAGE),
        (DataError, ExitCode.DATA),
        (ArtifactError, ExitCode.ARTIFACT),
        (PlanError, ExitCode.ARTIFACT),
        (QuantizationError, ExitCode.ARTIFACT),
        (ServiceError, ExitCode.SERVICE),
        (StoreError, ExitCode.STORE),
        (OSError, ExitCode.STORE),
    )
    return next((code for family, code in families if isinstance(error, family)), ExitCode.BACKEND)


class CommandTree(click.Group):
    """A group whose commands are entry points, each loaded when it is called."""

    def __init__(
        self, name: str, commands_by_path: dict[str, EntryPoint], prefix: str = "", **attrs: object
    ) -> None:
        """Take the tree's commands.

        Args:
            name: What the user types for this group.
            commands_by_path: Every command of the whole tree, by its dotted path.
            prefix: Dotted path of this group within the tree; empty for the root.
            attrs: Passed on to `click.Group`.
        """
        super().__init__(name, **attrs)  # type: ignore[arg-type]  # click's own keywords
        self._commands_by_path = commands_by_path
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names directly below this group, sorted."""
        del ctx
        start = f"{self._prefix}." if self._prefix else ""
        below = (path for path in self._commands_by_path if path.startswith(start))
        return sorted({path[len(start) :].split(".", 1)[0] for path in below})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the sub-group or the loaded command, or None when there is none.

        Raises:
            MissingExtraError: The command needs a library that is not installed.
        """
        path = f"{self._prefix}.{cmd_name}" if self._prefix else cmd_name
        if path in self._commands_by_path:
            return _load_command(path, self._commands_by_path[path])
        if cmd_name in self.list_commands(ctx):
            return CommandTree(cmd_name, self._commands_by_path, path, help=SUMMARIES.get(path, ""))
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading any."""
        start = f"{self._prefix}." if self._prefix else ""
        rows = [(name, SUMMARIES.get(start + name, "")) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class _RootCommand(CommandTree):
    """The root: the one place where errors become a line and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (PocketRecError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise  # click ends quietly when the reader of our output went away
            _report(error, with_traceback=bool(ctx.params.get("debug")))
            raise click.exceptions.Exit(exit_code_of(error)) from error
        except KeyboardInterrupt as error:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from error


def main(args: Sequence[str] | None = None, *, prog_name: str = "pocketrec") -> None:
    """Run the command line; ends the process with its exit code.

    Args:
        args: The words after the program's name; None takes the process's own.
        prog_name: What help and usage call the program.
    """
    make_root(entry_points(group=COMMAND_GROUP)).main(
        args=None if args is None else list(args), prog_name=prog_name
    )


def make_root(commands: Iterable[EntryPoint]) -> click.Group:
    """Return the root command over the given entry points.

    Args:
        commands: Entry points whose names are dotted paths.
    """
    root = _RootCommand(
        "pocketrec",
        {command.name: command for command in commands},
        help="A personal re-ranker inside a mobile app: train, quantize, deliver, re-rank.",
        params=[
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error as well.")
        ],
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__, prog_name="pocketrec")(root)


def _load_command(path: str, entry_point: EntryPoint) -> click.Command:
    try:
        command = entry_point.load()
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".", 1)[0]
        if not library or library.startswith("pocketrec"):
            raise  # a fault of ours, not a missing extra
        extra = _EXTRAS_BY_LIBRARY.get(library) or _EXTRAS.get(entry_point.module.split(".")[0])
        package = f"pocketrec[{extra}]" if extra else "pocketrec"
        words = path.replace(".", " ")
        raise MissingExtraError(
            f"'pocketrec {words}' needs the library {library!r}, which is not installed;"
            f" run: pip install '{package}'"
        ) from error
    if not isinstance(command, click.Command):
        raise TypeError(f"entry point {entry_point.value!r} is {command!r}, not a click.Command")
    return command


def _report(error: PocketRecError | OSError, *, with_traceback: bool) -> None:
    if with_traceback:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    text = str(error)
    if not isinstance(error, PocketRecError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    click.secho(f"error: {text}", fg="red", err=True)
