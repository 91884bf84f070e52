# SPDX-License-Identifier: Apache-2.0
"""Runs what ``benchmarks.planning`` measures, in turns, and puts the figures together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress

from benchmarks.environment import ROOT, read_environment
from benchmarks.planning_samples import make_sensitivity, make_users, seeded_planner
from benchmarks.processes import start_worker
from benchmarks.seeded_bundle import write_seeded_bundle
from benchmarks.shapes import Shape
from pocketrec.errors import BackendError, ConfigError
from pocketrec_cloud.delivery.publishing.bundles import publish_bundle
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.publishing.storage import open_storage
from pocketrec_cloud.planning.engines import LocalEngine, RayEngine
from pocketrec_cloud.planning.fleet import FleetJob, plan_fleet
from pocketrec_cloud.planning.user_embeddings import write_user_embeddings
from pocketrec_quantization.bitpack import packed_size
from pocketrec_quantization.budget import SCALE_BYTES, budget_bytes
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.layers import LayerTable, total_channels, total_weights

__all__ = ["TARGETS", "PlanningSettings", "Plannings"]

TARGETS = {"users_per_s": 20_000.0, "rpc_per_s": 1_500.0}
"""What two cores have to reach."""

_CORES = 2
_WORKER, _SERVER = "benchmarks.planning_worker", "benchmarks.planning_server"
_GRACE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningSettings:
    """How much is measured.

    Attributes:
        rounds: Of each figure; the median counts.
        seconds: Of one measurement.
        clients: How many devices ask at once, each in its turn.
        users: Of the file that engines plan for.
        average_bits: The budget of plans.
        shape: D, L and blocks of the model.
        seed: Of weights and users.

    Raises:
        ConfigError: A number is too small.
    """

    rounds: int = 3
    seconds: float = 4.0
    clients: tuple[int, ...] = (1, 16, 64, 256)
    users: int = 200_000
    average_bits: float = 3.0
    shape: str = "64x50x2"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rounds, self.users, *self.clients) < 1 or self.seconds <= 0:
            raise ConfigError(f"expected positive numbers, got {self}")


class Plannings:
    """One run.

    Args:
        settings: How much is measured.
        progress: Shows how far it is.
    """

    def __init__(self, settings: PlanningSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        n_steps = settings.rounds * (2 + len(settings.clients)) + 2
        self._bar = progress.add_task("", total=n_steps)

    def run(self) -> dict[str, Any]:
        """Measure everything.

        Raises:
            BackendError: A process failed.
            PocketRecError: A part of the bundle, the store or the plans cannot be made.
            OSError: A file cannot be read or written.
        """
        settings = self._settings
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            bundle = self._prepare(work)
            layers = bundle.manifest.layers
            offline, tuning, calls = [], [], []
            for _ in range(settings.rounds):
                offline.append(self._on_both_cores(work, self._plan_job(work, layers)))
                tuning.append(self._on_both_cores(work, self._tuning_job(layers)))
                calls += self._ask(work, bundle)
            engines = [self._engine(work, name, layers) for name in ("local", "ray")]
        figures = {
            "users_per_s": median(_total(answers) for answers in offline),
            "rpc_per_s": max(call["rpc_per_s"] for call in self._medians(calls)),
        }
        return {
            "command": _command(settings),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": asdict(settings),
            "environment": {**read_environment(), "threads": _CORES},
            **figures,
            "targets": {
                name: {
                    "wanted": wanted,
                    "measured": figures[name],
                    "is_met": figures[name] >= wanted,
                }
                for name, wanted in TARGETS.items()
            },
            "rpc": self._medians(calls),
            "engines": engines,
            "alternative": _alternative(layers, tuning, calls),
        }

    def _prepare(self, work: Path) -> BundleFolder:
        """Write a bundle, a store that has it, a planner and a file of users."""
        settings = self._settings
        shape = Shape.parse(settings.shape)
        self._tell("bundle, store and users")
        bundle = write_seeded_bundle(work / "bundle", shape, seed=settings.seed, has_extractor=True)
        layers, keys, store = bundle.manifest.layers, work / "keys", work / "store"
        planner = seeded_planner(
            layers, bundle.model_digest, embedding_dim=shape.d, seed=settings.seed
        ).to_bytes()
        (work / "planner.safetensors").write_bytes(planner)
        KeyFolder(keys).create()
        with open_storage(store, is_new=True) as storage:
            create_repository(storage, keys)
            publish_bundle(storage, keys, bundle, make_sensitivity(layers), planner=planner)
        subjects = [f"user-{number}" for number in range(settings.users)]
        users = make_users(settings.users, shape.d, seed=settings.seed)
        write_user_embeddings(work / "users.parquet", subjects, users)
        return bundle

    def _plan_job(self, work: Path, layers: LayerTable) -> dict[str, Any]:
        return {
            "task": "plan",
            "planner": str(work / "planner.safetensors"),
            "budget_bytes": budget_bytes(layers, self._settings.average_bits),
        }

    def _tuning_job(self, layers: LayerTable) -> dict[str, Any]:
        shape = Shape.parse(self._settings.shape)
        return {
            "task": "fine_tune",
            "layers": [layer.name for layer in layers],
            "d": shape.d,
            "blocks": shape.blocks,
            "window": shape.window,
            "n_items": shape.n_items,
        }

    def _on_both_cores(self, work: Path, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Do a job in two processes at once."""
        self._tell(job["task"])
        jobs = [{**job, **self._common(work, number)} for number in range(_CORES)]
        with ThreadPoolExecutor(_CORES) as pool:
            answers = list(pool.map(_answer, jobs))
        self._progress.advance(self._bar)
        return answers

    def _ask(self, work: Path, bundle: BundleFolder) -> list[dict[str, Any]]:
        """Ask one server for plans, with every number of clients."""
        answers = []
        with _server(work) as (target, pid):
            for clients in self._settings.clients:
                self._tell(f"{clients} clients")
                job = {
                    **self._common(work, clients),
                    "task": "load",
                    "target": target,
                    "server_pid": pid,
                    "clients": clients,
                    "name": f"{time.time_ns()}",
                    "d": bundle.manifest.backbone.embedding_dim,
                    "model_digest": bundle.model_digest.hex(),
                    "bundle_digest": bundle.digest.hex(),
                }
                answers.append(_answer(job))
                self._progress.advance(self._bar)
        return answers

    def _medians(self, calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one row per number of clients, with the median of every figure."""
        rows = []
        for clients in self._settings.clients:
            found = [call for call in calls if call["clients"] == clients]
            rows.append({key: median(call[key] for call in found) for key in found[0]})
        return rows

    def _engine(self, work: Path, name: str, layers: LayerTable) -> dict[str, Any]:
        """Plan for the file of users, start of processes and files included."""
        self._tell(f"engine {name}")
        self._progress.advance(self._bar)
        if name == "ray" and find_spec("ray") is None:
            return {"engine": name, "skipped": "the extra 'ray' is not installed"}
        job = FleetJob(
            planner=work / "planner.safetensors",
            embeddings=work / "users.parquet",
            out=work / f"plans-{name}",
            budget_bytes=budget_bytes(layers, self._settings.average_bits),
        )
        engine = RayEngine(_CORES) if name == "ray" else LocalEngine(_CORES)
        started = time.perf_counter()
        manifest = plan_fleet(job, engine, advance=lambda *_: None)
        seconds = time.perf_counter() - started
        shards = [job.out / shard["path"] for shard in manifest["shards"]]
        return {
            "engine": name,
            "users_per_s": self._settings.users / seconds,
            "seconds": seconds,
            "bytes_per_user": sum(path.stat().st_size for path in shards) / self._settings.users,
        }

    def _common(self, work: Path, number: int) -> dict[str, Any]:
        return {
            "seconds": self._settings.seconds,
            "seed": self._settings.seed + number,
            "answer": str(work / f"answer-{number}.json"),
        }

    def _tell(self, text: str) -> None:
        self._progress.update(self._bar, description=text)


@contextmanager
def _server(work: Path) -> Iterator[tuple[str, int]]:
    """Run a server process while the block runs, and yield its address and its id."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", _SERVER]
    files = [str(work / name) for name in ("store", "keys")]
    with subprocess.Popen(
        [*command, *files],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(paths),
        },
    ) as process:
        address = process.stdout.readline().strip() if process.stdout else ""
        try:
            if not address:
                raise BackendError("the server did not start; see its messages above")
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(_GRACE_S)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job in a fresh process."""
    path = Path(job["answer"])
    path.unlink(missing_ok=True)
    words = start_worker(_WORKER, job)
    if not path.exists():
        raise BackendError(f"{job['task']}: {words}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _alternative(
    layers: LayerTable, tuning: Sequence[list[dict[str, Any]]], calls: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return what weights of one's own would cost instead of a plan."""
    n_weights = tuning[0][0]["n_weights"]
    if n_weights != total_weights(layers):
        raise BackendError(f"fine-tuned {n_weights} weights, plans are for {total_weights(layers)}")
    return {
        "fine_tuned_users_per_s": median(_total(answers) for answers in tuning),
        "int8_bytes": n_weights + SCALE_BYTES * total_channels(layers),
        "float32_bytes": 4 * n_weights,
        "plan_payload_bytes": packed_size(total_channels(layers)),
        "plan_bytes": median(call["down_bytes"] for call in calls),
    }


def _total(answers: Sequence[dict[str, Any]]) -> float:
    return sum(float(answer["users_per_s"]) for answer in answers)


def _command(settings: PlanningSettings) -> str:
    clients = ",".join(str(number) for number in settings.clients)
    words = [f"--rounds {settings.rounds} --seconds {settings.seconds:g} --clients {clients}"]
    words.append(f"--users {settings.users} --average-bits {settings.average_bits:g}")
    words.append(f"--shape {settings.shape} --seed {settings.seed}")
    return " ".join(["python -m benchmarks.planning", *words])
