# SPDX-License-Identifier: Apache-2.0
"""The command ``bench run``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError
from pocketrec_device.backends import BACKENDS
from pocketrec_device.bench.cells import SCENARIOS, Grid, Variant
from pocketrec_device.bench.config import BenchConfig
from pocketrec_device.bench.demo_files import DEMO_FOLDER, find_demo
from pocketrec_device.bench.peers import load_peer
from pocketrec_device.bench.run import Side, run_bench
from pocketrec_device.bench.tables import draw_result
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.levels import SPEED_PRESETS

__all__ = ["FILE", "Files", "check_folders", "effort_options", "run", "side_of"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
"""A file that is read."""

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])
_GRID = Grid(variants=(Variant(name="default"),))


def effort_options(**defaults: int) -> Callable[[_Command], _Command]:
    """Return what adds the options that become a ``BenchConfig``.

    Args:
        defaults: Other defaults than those of ``BenchConfig``, by field.
    """
    config = replace(BenchConfig(), **defaults)
    count = click.IntRange(1)
    options = (
        click.option(
            "--candidates",
            "n_candidates",
            type=count,
            default=config.n_candidates,
            help="Candidates per ranking.",
        ),
        click.option(
            "--warmup",
            type=click.IntRange(0),
            default=config.warmup,
            help="Calls before the clock starts, per operation and process.",
        ),
        click.option(
            "--runs",
            type=count,
            default=config.runs,
            help="Timed calls at least, per operation and process.",
        ),
        click.option(
            "--min-seconds",
            type=click.FloatRange(0),
            default=config.min_seconds,
            help="Seconds at least, per operation and process.",
        ),
        click.option("--repeat", type=count, default=config.repeat, help="Processes per row."),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=config.seed,
            help="Of histories, candidates and tie-breaks.",
        ),
        click.option(
            "--keep-samples",
            "kept_samples",
            type=count,
            default=config.kept_samples,
            help="Single calls in the result, per operation and process.",
        ),
    )

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What to measure, as options or a preset name it.

    Args:
        bundle: Folder of the bundle.
        plans: Plan files beside the default plan.
        float_twin: The float control.
        cases: Held-out users.
    """

    bundle: Path | None
    plans: tuple[Path, ...]
    float_twin: Path | None
    cases: Path | None


@click.command(context_settings={"show_default": True})
@click.option("--bundle", type=_FOLDER, help="The bundle; needed without --preset.")
@click.option(
    "--plan",
    "plans",
    type=FILE,
    multiple=True,
    help="A row beside the default plan's; may be repeated.",
)
@click.option("--float-twin", type=FILE, help="The float control, as the first row.")
@click.option("--cases", type=FILE, help="Held-out users: adds HR, NDCG and agreement.")
@click.option(
    "--preset",
    type=click.Choice(["demo"]),
    help="Bundle, plans, float control and cases of a finished demo.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=DEMO_FOLDER, help="The demo's folder."
)
@click.option(
    "--backend",
    "backends",
    type=click.Choice(sorted(BACKENDS)),
    multiple=True,
    default=_GRID.backends,
    help="What computes.",
)
@click.option(
    "--speed",
    "speeds",
    type=click.Choice(sorted(SPEED_PRESETS)),
    multiple=True,
    default=_GRID.speeds,
    help="What a plan's tiers mean in bits.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    multiple=True,
    default=_GRID.threads,
    help="Threads per call.",
)
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(SCENARIOS),
    multiple=True,
    default=_GRID.scenarios,
    help="Single calls, replayed sessions, or one user after the other.",
)
@click.option(
    "--sessions", type=FILE, help="Users to replay: 'user item item …' per line; or the cases."
)
@click.option(
    "--peer", "peers", multiple=True, help="Another runtime: a name, module:Name or file.py:Name."
)
@click.option("--label", default="", help="Free text for the result.")
@effort_options()
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page for people."
)
@json_option
def run(
    *,
    bundle: Path | None,
    plans: tuple[Path, ...],
    float_twin: Path | None,
    cases: Path | None,
    preset: str | None,
    work: Path,
    backends: tuple[str, ...],
    speeds: tuple[str, ...],
    threads: tuple[int, ...],
    scenarios: tuple[str, ...],
    sessions: Path | None,
    peers: tuple[str, ...],
    label: str,
    html: Path | None,
    json_path: str | None,
    **effort: Any,
) -> None:
    """Time and size one bundle under its plans, and score its ranking.

    Options that may be repeated make rows of every combination.
    """
    files = Files(bundle=bundle, plans=plans, float_twin=float_twin, cases=cases)
    if preset is not None:
        files = _with_demo(files, work)
    check_folders(html, json_path)
    axes = {"backends": backends, "speeds": speeds, "threads": threads, "scenarios": scenarios}
    side = side_of(files, peers, sessions, label, **axes)
    with stderr_console().status("measuring") as status:
        result = run_bench(side, BenchConfig(**effort), progress=status.update)
    # First, so that nothing measured is lost where the page cannot be written.
    emit(result, render=lambda console: draw_result(console, result), json_path=json_path)
    if html is not None:
        from pocketrec_device.bench_report import write_html

        write_html(result, html)


def check_folders(*files: Path | str | None) -> None:
    """Refuse, before anything is measured, files that could not be written afterwards.

    Args:
        files: To be written; None and ``"-"`` are none.

    Raises:
        ConfigError: There is no folder for one of them.
    """
    for file in files:
        if file not in (None, "-") and not Path(file).parent.is_dir():
            raise ConfigError(f"{file}: expected a folder to write it to, found none")


def _with_demo(files: Files, work: Path) -> Files:
    """Return a demo's files; what was named adds to its plans, or takes the others' place."""
    found = find_demo(work)
    return Files(
        bundle=files.bundle or found.bundle,
        plans=(*found.plans, *files.plans),
        float_twin=files.float_twin or found.float_twin,
        cases=files.cases or found.cases,
    )


def side_of(
    files: Files, peers: tuple[str, ...], sessions: Path | None, label: str, **axes: tuple[Any, ...]
) -> Side:
    """Return what to measure.

    Args:
        files: With a bundle.
        peers: Other runtimes, as ``load_peer`` takes them.
        sessions: Users to replay, or None.
        label: Free text for the result.
        axes: As of ``Grid``, its variants apart.

    Raises:
        ConfigError: There is no bundle, or a peer is unknown.
        ArtifactError: The bundle cannot be used.
    """
    if files.bundle is None:
        raise ConfigError("expected a bundle: add --bundle, or --preset demo")
    grid = Grid(variants=_variants(files.bundle, files, peers), **axes)
    return Side(folder=files.bundle, grid=grid, cases=files.cases, sessions=sessions, label=label)


def _variants(bundle: Path, files: Files, peers: tuple[str, ...]) -> tuple[Variant, ...]:
    twin = files.float_twin
    control = [] if twin is None else [Variant(name="float32", float_twin=twin)]
    rows = [*control, *(Variant(name=path.stem, plan=path) for path in files.plans)]
    rows.append(Variant(name=BundleFolder.open(bundle).read_default_plan().planner))
    others = (Variant(name=load_peer(spec).name, float_twin=twin, peer=spec) for spec in peers)
    return (*rows, *others)
