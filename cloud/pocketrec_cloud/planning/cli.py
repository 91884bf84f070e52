# SPDX-License-Identifier: Apache-2.0
"""The command ``plan make``: one plan, or those of all users of a file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec.files import write_atomically
from pocketrec_cloud.bundling import SENSITIVITY
from pocketrec_cloud.planning.engines import ENGINES, make_engine
from pocketrec_cloud.planning.fleet import DEFAULT_SHARD_USERS, FleetJob, plan_fleet
from pocketrec_cloud.results import draw_plan
from pocketrec_quantization.budget import budget_bytes as bytes_of_bits
from pocketrec_quantization.budget import coded_bytes, effective_bits
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.plan import Plan, encode_plan, model_id, plan_sizes
from pocketrec_quantization.planners import (
    Planner,
    UniformPlanner,
    named_planners,
    sensitivity_from_bytes,
)

__all__ = ["plan_make"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_PERSONAL = "personal"
_DEFAULT_BITS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the options say of a planner and a budget."""

    name: str
    sensitivity: Path | None
    planner_file: Path | None
    average_bits: float | None
    budget_bytes: int | None
    seed: int

    def budget(self, bundle: BundleFolder, planner: Planner | None = None) -> int:
        if self.average_bits is not None and self.budget_bytes is not None:
            raise ConfigError(
                "expected --average-bits or --budget-bytes, found both: leave one out"
            )
        if self.budget_bytes is not None:
            return self.budget_bytes
        if self.average_bits is None and isinstance(planner, UniformPlanner):
            return planner.needed_bytes
        bits = _DEFAULT_BITS if self.average_bits is None else self.average_bits
        return bytes_of_bits(bundle.manifest.layers, bits)


@click.command()
@click.option("--bundle", "folder", type=_FOLDER, required=True, help="The bundle's folder.")
@click.option(
    "--planner",
    default="global",
    show_default=True,
    help="global, uniform-BITS, random or personal.",
)
@click.option("--sensitivity", type=_FILE, help="The file beside the bundle, for 'global'.")
@click.option("--planner-file", type=_FILE, help="A planner file, for 'personal'.")
@click.option(
    "--embedding",
    type=_FILE,
    help="One user embedding as .npy, for 'personal'; the population's mean when left out.",
)
@click.option("--average-bits", type=float, help="Budget in bits per weight, scales apart.")
@click.option("--budget-bytes", type=click.IntRange(0), help="Budget in bytes, scales included.")
@click.option("--seed", type=int, default=0, show_default=True, help="For 'random'.")
@click.option("--all-users", is_flag=True, help="Plan for every user of --embeddings.")
@click.option("--embeddings", type=_FILE, help="User embeddings as Parquet, for --all-users.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="Where --all-users works: processes of this machine, or Ray.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes; one per core when left out.")
@click.option(
    "--shard-users",
    type=click.IntRange(1),
    default=DEFAULT_SHARD_USERS,
    show_default=True,
    help="Plans of one file.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File, or folder.")
@json_option
def plan_make(
    *,
    folder: Path,
    planner: str,
    sensitivity: Path | None,
    planner_file: Path | None,
    embedding: Path | None,
    average_bits: float | None,
    budget_bytes: int | None,
    seed: int,
    all_users: bool,
    embeddings: Path | None,
    engine: str,
    workers: int | None,
    shard_users: int,
    out: Path,
    json_path: str | None,
) -> None:
    """Make unsigned plans: one to look at or to measure, or one for every user.

    Devices only accept plans that a server signed. One plan is for ``plan show``,
    ``plan diff`` and ``bench run``; with --all-users, --out is a folder of Parquet files for
    caches and pushes, which a run that was broken off goes on with.
    """
    bundle = BundleFolder.open(folder)
    wish = _Wish(
        name=_PERSONAL if all_users else planner,
        sensitivity=sensitivity,
        planner_file=planner_file,
        average_bits=average_bits,
        budget_bytes=budget_bytes,
        seed=seed,
    )
    if not all_users:
        _make_one(bundle, wish, embedding, out, json_path)
        return
    job = _fleet_job(bundle, wish, embeddings, out, shard_users)
    _make_all(job, engine, workers or os.cpu_count() or 1, json_path)


def _make_one(
    bundle: BundleFolder, wish: _Wish, embedding: Path | None, out: Path, json_path: str | None
) -> None:
    maker = _planner(bundle, wish)
    budget = wish.budget(bundle, maker)
    user_embedding = None if embedding is None else _read_embedding(embedding)
    plan = Plan(
        model_id=model_id(bundle.model_digest),
        levels=maker.levels,
        layers=bundle.manifest.layers,
        codes=maker.plan([user_embedding], budget)[0],
        budget_bytes=budget,
        subject="",
        planner=maker.name,
        version=0,
        issued_at_s=int(time.time()),
        expires_at_s=0,
        key_id=b"",
    )
    content = encode_plan(plan, None)
    write_atomically(out, content)
    sizes = plan_sizes(content)
    result = {
        "plan": out,
        "planner": plan.planner,
        "budget_bytes": budget,
        "coded_bytes": coded_bytes(plan.layers, plan.widths),
        "effective_bits": effective_bits(plan.layers, plan.widths),
        "header_bytes": sizes.header_bytes,
        "payload_bytes": sizes.payload_bytes,
    }
    emit(result, render=lambda console: draw_plan(console, result), json_path=json_path)


def _fleet_job(
    bundle: BundleFolder, wish: _Wish, embeddings: Path | None, out: Path, shard_users: int
) -> FleetJob:
    if wish.planner_file is None or embeddings is None:
        raise ConfigError("--all-users: expected --planner-file and --embeddings beside it")
    _read_planner(bundle, wish.planner_file)
    return FleetJob(
        planner=wish.planner_file.resolve(),
        embeddings=embeddings.resolve(),
        out=out.resolve(),
        budget_bytes=wish.budget(bundle),
        shard_users=shard_users,
    )


def _make_all(job: FleetJob, engine: str, workers: int, json_path: str | None) -> None:
    columns = (
        TextColumn("users"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    works_on = make_engine(engine, workers)
    started = time.perf_counter()
    with Progress(*columns, console=stderr_console(), transient=True) as progress:
        bar = progress.add_task("users", total=None)
        manifest = plan_fleet(
            job,
            works_on,
            advance=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "folder": job.out,
        "engine": engine,
        "workers": workers,
        "n_shards": len(manifest["shards"]),
        **{key: value for key, value in manifest.items() if key not in {"shards", "layers"}},
        "seconds": seconds,
    }
    line = (
        f"{result['n_planned']:,} of {result['n_users']:,} users planned in {seconds:.1f} s, "
        f"{result['n_shards']} shards in {job.out}"
    )
    emit(
        result,
        render=lambda console: console.print(line, soft_wrap=True, markup=False),
        json_path=json_path,
    )


def _planner(bundle: BundleFolder, wish: _Wish) -> Planner:
    if wish.name == _PERSONAL:
        if wish.planner_file is None:
            raise ConfigError("--planner personal: expected --planner-file beside it")
        return _read_planner(bundle, wish.planner_file)
    losses = None
    if wish.name == "global":
        path = wish.sensitivity or bundle.path.parent / SENSITIVITY
        if not path.exists():
            raise ConfigError(
                f"expected the model's sensitivity in {path}, found nothing: "
                "name the file with --sensitivity"
            )
        losses = sensitivity_from_bytes(path.read_bytes())
    planners = named_planners(bundle.manifest.layers, losses, wish.seed)
    if wish.name not in planners:
        known = ", ".join(sorted({"global", _PERSONAL, *planners}))
        raise ConfigError(f"expected a planner among {known}, found {wish.name!r}")
    return planners[wish.name]


def _read_planner(bundle: BundleFolder, path: Path) -> PersonalPlanner:
    """Return a planner that was trained for the bundle's model."""
    planner = PersonalPlanner.from_bytes(path.read_bytes())
    if planner.model_digest != bundle.model_digest or planner.layers != bundle.manifest.layers:
        raise IncompatibleArtifactError(
            f"{path}: expected a planner for the frozen model {bundle.model_digest.hex()}, found "
            f"one for {planner.model_digest.hex()}; train it with this bundle's weights"
        )
    return planner


def _read_embedding(path: Path) -> NDArray[np.float32]:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ConfigError(f"{path}: expected an array as .npy: {error}") from error
    embedding: NDArray[np.float32] = np.asarray(found, np.float32)
    return embedding
