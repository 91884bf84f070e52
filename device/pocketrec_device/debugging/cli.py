# SPDX-License-Identifier: Apache-2.0
"""The commands ``debug layers|diverge|profile``."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from pocketrec.cli import ExitCode
from pocketrec.console import emit, json_option, stderr_console
from pocketrec_device.debugging.progress import Progress
from pocketrec_device.float_control import check_twin
from pocketrec_device.settings import COMPUTE_CHOICES
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.plan import Plan, check_applies, decode_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["diverge", "layers", "profile"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--bundle", type=_FOLDER, required=True)
@click.option("--plan", type=_FILE, help="Whose layers; the bundle's default plan when left out.")
@click.option("--cases", type=_FILE, required=True, help="Held-out users, from bundle build.")
@click.option("--float-twin", type=_FILE, help="Compares outputs of layers with float weights.")
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Users that blame is found with, at most.",
)
@click.option("--measure", is_flag=True, help="Also compute all users with each layer at 8 bits.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per call."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the sample and of tie-breaks.",
)
@json_option
def layers(
    *,
    bundle: Path,
    plan: Path | None,
    cases: Path,
    float_twin: Path | None,
    sample: int,
    measure: bool,
    threads: int,
    seed: int,
    json_path: str | None,
) -> None:
    """Say which layer of a plan is to blame, and what 8 bits for it would bring."""
    from pocketrec_device.debugging.blame import BlameOptions, find_blame
    from pocketrec_device.debugging.tables import draw_blame

    folder = BundleFolder.open(bundle)
    chosen = _plan(folder, plan)
    twin = None
    if float_twin is not None:
        twin = FloatTwin.from_bytes(float_twin.read_bytes())
        check_twin(twin, folder, float_twin)
    options = BlameOptions(
        n_sampled=sample,
        n_measured=len(chosen.layers) if measure else 0,
        threads=threads,
        seed=seed,
    )
    with _shown_progress(stderr_console()) as progress:
        report = find_blame(
            folder,
            chosen.widths,
            _held_out(folder, cases),
            None if twin is None else twin.weights,
            options=options,
            progress=progress,
        )
    result = {
        "schema": "pocketrec.blame/1",
        "bundle": _bundle_facts(folder),
        "plan": _plan_facts(chosen),
        "options": asdict(options),
        **asdict(report),
    }
    emit(result, render=lambda console: draw_blame(console, report), json_path=json_path)


@click.command()
@click.option("--bundle", type=_FOLDER, required=True)
@click.option("--plan", type=_FILE, help="The bundle's default plan when left out.")
@click.option("--left", default="numpy", show_default=True, metavar="BACKEND[:COMPUTE]")
@click.option("--right", default="onnxruntime", show_default=True, metavar="BACKEND[:COMPUTE]")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Largest relative difference that is none.",
)
@click.option("--cases", type=_FILE, help="Histories of held-out users, not the test vectors'.")
@click.option(
    "--histories",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many of them, at most.",
)
@json_option
@click.pass_context
def diverge(
    context: click.Context,
    *,
    bundle: Path,
    plan: Path | None,
    left: str,
    right: str,
    tolerance: float,
    cases: Path | None,
    histories: int,
    json_path: str | None,
) -> None:
    """Find the first operator at which two backends differ; ends with 1 if there is one.

    A backend is numpy, executorch, or onnxruntime with fp32, int8, packed or auto after a
    colon; without, it computes in float32.
    """
    from pocketrec_device.debugging.divergence import find_divergence
    from pocketrec_device.debugging.tables import draw_divergence

    folder = BundleFolder.open(bundle)
    chosen = _plan(folder, plan)
    with _shown_progress(stderr_console()) as progress:
        found = find_divergence(
            folder,
            chosen,
            _histories(folder, cases, histories),
            left=left,
            right=right,
            tolerance=tolerance,
            progress=progress,
        )
    result = {"schema": "pocketrec.divergence/1", "bundle": _bundle_facts(folder), **asdict(found)}
    emit(result, render=lambda console: draw_divergence(console, found), json_path=json_path)
    if found.first is not None:
        context.exit(ExitCode.CHECK_FAILED)


@click.command()
@click.option("--bundle", type=_FOLDER, required=True)
@click.option("--plan", type=_FILE, help="The bundle's default plan when left out.")
@click.option(
    "--backend",
    type=click.Choice(["executorch", "onnxruntime"]),
    default="onnxruntime",
    show_default=True,
    help="Whose tracer.",
)
@click.option(
    "--compute",
    type=click.Choice(COMPUTE_CHOICES),
    default="auto",
    show_default=True,
    help="Kernels of ONNX Runtime.",
)
@click.option("--cases", type=_FILE, help="The longest history of held-out users, not a made one.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads per call, of ONNX Runtime.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Calls that do not count.",
)
@click.option(
    "--runs", type=click.IntRange(1), default=200, show_default=True, help="Calls that do."
)
@json_option
def profile(
    *,
    bundle: Path,
    plan: Path | None,
    backend: str,
    compute: str,
    cases: Path | None,
    threads: int,
    warmup: int,
    runs: int,
    json_path: str | None,
) -> None:
    """Say where the time of a call goes, by the tracer of the backend's library.

    What is traced: a full window of events taken in but for the last one, then that one.
    """
    from pocketrec_device.debugging.profile import PROFILE_SCHEMA, ProfileOptions
    from pocketrec_device.debugging.profiling import profile_backend
    from pocketrec_device.debugging.tables import draw_profile

    folder = BundleFolder.open(bundle)
    chosen = _plan(folder, plan)
    options = ProfileOptions(compute=compute, threads=threads, n_warmup=warmup, n_runs=runs)
    with stderr_console().status("profiling"):
        history = _long_history(folder, cases)
        found = profile_backend(backend, folder, chosen, history, options)
    result = {
        "schema": PROFILE_SCHEMA,
        "bundle": _bundle_facts(folder),
        "plan": _plan_facts(chosen),
        "options": {"compute": compute, "n_warmup": warmup, "n_runs": runs},
        **asdict(found),
    }
    emit(result, render=lambda console: draw_profile(console, found), json_path=json_path)


def _histories(
    bundle: BundleFolder, cases: Path | None, n_histories: int
) -> list[NDArray[np.int32]]:
    if cases is None:
        return [case.history for case in bundle.read_vectors().cases[:n_histories]]
    held_out = _held_out(bundle, cases)
    return [held_out.history(case) for case in range(min(n_histories, held_out.n_cases))]


def _long_history(bundle: BundleFolder, cases: Path | None) -> NDArray[np.int32]:
    window = bundle.manifest.backbone.window
    if cases is None:
        items = np.arange(window, dtype=np.int32) % bundle.manifest.items.n_items
        return items + 1
    held_out = _held_out(bundle, cases)
    return held_out.history(int(np.argmax(np.diff(held_out.offsets))))


def _held_out(bundle: BundleFolder, path: Path) -> EvaluationCases:
    cases = EvaluationCases.from_bytes(path.read_bytes())
    cases.check_catalogue(bundle.manifest.items.n_items, path)
    return cases


def _plan(bundle: BundleFolder, path: Path | None) -> Plan:
    if path is None:
        return bundle.read_default_plan()
    plan = decode_plan(path.read_bytes())
    check_applies(plan, bundle.manifest.layers, bundle.model_digest)
    return plan


def _plan_facts(plan: Plan) -> dict[str, object]:
    return {"planner": plan.planner, "subject": plan.subject, "version": plan.version}


def _bundle_facts(bundle: BundleFolder) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "model_name": manifest.model_name,
        "version": manifest.version,
        "digest": bundle.digest,
        "kind": manifest.backbone.kind,
    }


@contextmanager
def _shown_progress(console: Console) -> Iterator[Progress]:
    """Show how far a search is, one bar after the other."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        tasks = [bars.add_task("loading", total=None)]

        def begin(text: str, n_steps: int) -> None:
            bars.remove_task(tasks.pop())
            tasks.append(bars.add_task(text, total=n_steps))

        yield Progress(begin=begin, advance=lambda n_steps: bars.advance(tasks[-1], n_steps))
