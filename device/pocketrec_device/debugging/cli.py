# SPDX-License-Identifier: Apache-2.0
"""The commands ``debug layers|diverge|profile``."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from pocketrec.console import emit, json_option, stderr_console
from pocketrec_device.debugging.progress import Progress
from pocketrec_device.float_control import check_twin
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.plan import Plan, check_applies, decode_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

__all__ = ["layers"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--bundle", type=_FOLDER, required=True)
@click.option("--plan", type=_FILE, help="Whose layers; the bundle's default plan when left out.")
@click.option("--cases", type=_FILE, required=True, help="Held-out users, from bundle build.")
@click.option("--float-twin", type=_FILE, help="Compares outputs of layers with float weights.")
@click.option("--sample", type=click.IntRange(1), default=256, show_default=True)
@click.option("--measure", is_flag=True, help="Also compute all users with each layer at 8 bits.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
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
    options = BlameOptions(n_sampled=sample, is_measured=measure, threads=threads, seed=seed)
    with _shown_progress(stderr_console()) as progress:
        report = find_blame(
            folder,
            chosen.widths,
            EvaluationCases.from_bytes(cases.read_bytes()),
            None if twin is None else twin.weights,
            options=options,
            progress=progress,
        )
    result = {
        "schema": "pocketrec.blame/1",
        "bundle": _bundle_facts(folder),
        "plan": {"planner": chosen.planner, "subject": chosen.subject, "version": chosen.version},
        "options": asdict(options),
        **asdict(report),
    }
    emit(result, render=lambda console: draw_blame(console, report), json_path=json_path)


def _plan(bundle: BundleFolder, path: Path | None) -> Plan:
    if path is None:
        return bundle.read_default_plan()
    plan = decode_plan(path.read_bytes())
    check_applies(plan, bundle.manifest.layers, bundle.model_digest)
    return plan


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
