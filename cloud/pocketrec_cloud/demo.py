# SPDX-License-Identifier: Apache-2.0
"""The main job once, end to end, as separate processes: ``pocketrec demo``.

Every step is the command a user would type, run in a process of its own; the server and
the device talk over a real socket. What a step writes stays in the work folder, so that
it can be looked at afterwards.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError, ServiceUnavailableError
from pocketrec_cloud.bundling import BUNDLE_FOLDER, CASES, FLOAT_TWIN, PLANNER, SENSITIVITY
from pocketrec_cloud.data.readers import read_interactions
from pocketrec_cloud.data.synthetic import SyntheticConfig, synthetic_interactions
from pocketrec_cloud.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

__all__ = ["demo"]

MODEL = "demo"
SUBJECT = "user-0001"
PLANNERS = ("uniform-8", "uniform-4", "uniform-2")
PLANNER_EPOCHS = "6"
SERVER_STOP_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Where the demo's steps leave their results.

    Attributes:
        root: The work folder.
    """

    root: Path

    @property
    def training(self) -> Path:
        """Checkpoints."""
        return self.root / "training"

    @property
    def planner(self) -> Path:
        """The trained planner."""
        return self.root / "planner.safetensors"

    @property
    def build(self) -> Path:
        """The bundle and what stays behind."""
        return self.root / "build"

    @property
    def bundle(self) -> Path:
        """What devices get."""
        return self.build / BUNDLE_FOLDER

    @property
    def repository(self) -> Path:
        """What the server serves."""
        return self.root / "cloud" / "repository"

    @property
    def keys(self) -> Path:
        """Signing keys."""
        return self.root / "cloud" / "keys"

    @property
    def device(self) -> Path:
        """The device's store."""
        return self.root / "device"


class _Steps:
    """Runs commands one after the other, announcing each with what it is for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._number = 0
        self.seconds: dict[str, float] = {}

    def run(self, why: str, *words: str | Path, is_result: bool = False) -> None:
        """Run one ``pocketrec`` command, its output on stderr, or on stdout as our result.

        Raises:
            click.exceptions.Exit: It ended with another exit code than 0, which is ours too.
        """
        self.announce(why, *words)
        started = time.monotonic()
        stdout = None if is_result else sys.stderr.fileno()
        done = subprocess.run(_command(*words), check=False, stdout=stdout)  # noqa: S603  # our own command
        if done.returncode != 0:
            self._console.print(f"the demo ends here: this step ended with {done.returncode}")
            raise click.exceptions.Exit(done.returncode)
        self.seconds[why] = time.monotonic() - started

    def announce(self, why: str, *words: str | Path) -> None:
        """Say what is about to happen, and with which command."""
        self._number += 1
        self._console.rule(f"[bold]{self._number}. {why}", align="left")
        shown = " ".join(str(word) for word in words)
        self._console.print(f"pocketrec {shown}", style="dim", markup=False, soft_wrap=True)


def _command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "pocketrec", *(str(word) for word in words)]


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of real interactions; a generated catalogue when left out.",
)
@click.option("--preset", "preset_name", type=click.Choice(sorted(PRESETS)), default="demo")
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("work/demo"),
    show_default=True,
    help="Folder for everything the demo makes; emptied first.",
)
@click.option("--executorch", is_flag=True, help="Add an ExecuTorch program to the bundle.")
@json_option
def demo(
    *, data: Path | None, preset_name: str, work: Path, executorch: bool, json_path: str | None
) -> None:
    """Run the whole product once, on generated or real interactions."""
    _empty(work)
    space = Workspace(root=work)
    console = stderr_console()
    steps = _Steps(console)
    source = data if data is not None else _generate(space, console)
    _train_and_build(steps, space, source, preset_name, has_program=executorch)
    reranked = _deliver(steps, space, source)
    result = _measure(steps, space, is_shown=json_path != "-")
    result |= {"reranked": reranked, "seconds": steps.seconds}
    where = f"Everything is in {work}: try 'pocketrec bundle inspect {space.bundle}'"
    emit(
        result,
        render=lambda out: out.print(where, markup=False, soft_wrap=True),
        json_path=json_path,
    )


def _empty(work: Path) -> None:
    """Clear the work folder of an earlier demo, and of nothing else."""
    marker = work / ".pocketrec-demo"
    if work.exists() and any(work.iterdir()) and not marker.exists():
        raise ConfigError(
            f"expected {work} to be empty or an earlier demo's, found other files: "
            "name another folder with --work"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    marker.touch()


def _generate(space: Workspace, console: Console) -> Path:
    """Write the generated catalogue as a file, so that the next steps read real input."""
    dataset = synthetic_interactions(SyntheticConfig()).dataset
    path = space.root / "interactions.txt"
    lines = (
        " ".join([dataset.user_ids[u], *(dataset.item_ids[i - 1] for i in dataset.sequence(u))])
        for u in range(dataset.n_users)
    )
    path.write_text("\n".join(lines) + "\n")
    console.print(
        f"No --data: a generated catalogue with planted interests is in {path} "
        f"({dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_events:,} events)",
        markup=False,
        soft_wrap=True,
    )
    return path


def _train_and_build(
    steps: _Steps, space: Workspace, source: Path, preset_name: str, *, has_program: bool
) -> None:
    steps.run(
        "Cloud: train a re-ranker from interactions",
        *("train", "--data", source, "--preset", preset_name, "--out", space.training),
    )
    steps.run(
        "Cloud: freeze its matrices and train a planner of 2 bits per channel and user",
        *("planner", "train", "--data", source, "--out", space.planner),
        *("--checkpoint", space.training / "best.safetensors"),
        *("--max-epochs", PLANNER_EPOCHS),
    )
    steps.run(
        "Cloud: quantize, plan and export both as a bundle",
        *("bundle", "build", "--data", source, "--name", MODEL, "--out", space.build),
        *("--planner", space.planner),
        *(["--executorch"] if has_program else []),
    )


def _deliver(steps: _Steps, space: Workspace, source: Path) -> dict[str, Any]:
    """Publish, serve, sync a device, re-rank; then again with the server gone."""
    cloud = ("--store", space.repository, "--keys", space.keys)
    steps.run("Cloud: make signing keys and an empty repository", "keys", "init", *cloud)
    steps.run(
        "Cloud: sign and publish the bundle",
        *("bundle", "publish", space.bundle, *cloud),
        *("--sensitivity", space.build / SENSITIVITY, "--planner", space.build / PLANNER),
    )
    history, candidates = _sample_user(source)
    rerank = (
        *("device", "rerank", "--store", space.device, "-k", "5"),
        *("--history", ",".join(history), "--candidates", ",".join(candidates)),
    )
    with _server(steps, *cloud) as target:
        sync = ("device", "sync", target, "--store", space.device, "--subject", SUBJECT)
        steps.run(
            "Device: fetch the bundle and everybody's plan over gRPC, verify, adapt",
            *(*sync, "--root", space.repository / "metadata" / "1.root.json", "--model", MODEL),
        )
        steps.run(
            "Device: turn a history into an embedding, send that, get a plan for this user",
            *(*sync, "--history", ",".join(history)),
        )
    answer = space.root / "rerank.json"
    steps.run("Device: re-rank offline, the server is gone", *rerank, "--json", answer)
    reranked: dict[str, Any] = json.loads(answer.read_text())
    return reranked


@contextmanager
def _server(steps: _Steps, *cloud: str | Path) -> Iterator[str]:
    """Run ``pocketrec serve`` on a free port of the loopback while the body runs."""
    words = ("serve", *cloud, "--port", "0")
    steps.announce("Cloud: serve bundles and plans", *words)
    process = subprocess.Popen(  # noqa: S603  # our own command
        _command(*words), stdout=subprocess.PIPE, text=True
    )
    try:
        yield _await_address(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=SERVER_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_address(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        if line.startswith("listening on "):
            return line.removeprefix("listening on ").strip()
    raise ServiceUnavailableError(
        f"expected the server to listen, it ended with {process.wait()}: its message is above",
        code="UNAVAILABLE",
    )


def _sample_user(source: Path) -> tuple[list[str], list[str]]:
    """Return one user's recent items, and 20 candidates spread over the catalogue."""
    dataset, _ = read_interactions(source)
    events = [dataset.item_ids[i - 1] for i in dataset.sequence(0)]
    spread = range(0, dataset.n_items, max(1, dataset.n_items // 19))
    others = [dataset.item_ids[i] for i in spread if dataset.item_ids[i] != events[-1]]
    return events[:-1][-20:], [*others[:19], events[-1]]


def _measure(steps: _Steps, space: Workspace, *, is_shown: bool) -> dict[str, Any]:
    """Compare the float backbone, uniform widths and the global plan in one run."""
    for planner in PLANNERS:
        steps.run(
            f"Bench: make the {planner} control",
            *("plan", "make", "--bundle", space.bundle, "--planner", planner),
            *("--out", space.root / f"{planner}.plan"),
        )
    answer = space.root / "bench.json"
    plans: Sequence[str | Path] = [
        word for planner in PLANNERS for word in ("--plan", space.root / f"{planner}.plan")
    ]
    steps.run(
        "Bench: quality, bytes and time of all of them",
        *("bench", "run", "--bundle", space.bundle, *plans, "--json", answer),
        *("--float-twin", space.build / FLOAT_TWIN, "--cases", space.build / CASES),
        *("--repeat", "2", "--min-seconds", "0.3"),
        is_result=is_shown,
    )
    result: dict[str, Any] = json.loads(answer.read_text())
    return result
