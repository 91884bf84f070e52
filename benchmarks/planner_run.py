# SPDX-License-Identifier: Apache-2.0
"""Runs ``planner``: which units there are, several at a time, each once."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks.environment import read_environment
from benchmarks.planner_settings import BACKBONES, INITS, dataset_name
from benchmarks.planner_unit import GROUPS, PEER_GROUP, Unit, run_unit
from pocketrec.errors import ConfigError
from pocketrec.files import write_atomically

__all__ = ["PlannerSettings", "collect", "paired_tests", "run"]

_ANSWERS = "answers"
_RIVALS = (
    "fp32",
    "fp32-continued",
    "uniform-2",
    "uniform-4",
    "qat-2",
    "qat-4",
    "global",
    "mean",
    "myqasr",
    "random",
    "shuffled",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """What to fill the table with.

    Attributes:
        data: Files of interactions; each is called after its folder.
        backbones: Of ``BACKBONES``.
        inits: Of ``INITS``.
        groups: Of ``GROUPS`` and ``PEER_GROUP``.
        seeds: How many, from 0.
        work: Folder for checkpoints and answers; the next run goes on there.
        device: Where to train, as torch names it.
        jobs: Units at a time.
        threads: CPU threads of each.
        stop_after_s: No unit is begun after so many seconds; None = no limit.
        max_epochs: Of every training, for trials; 0 = each recipe's.

    Raises:
        ConfigError: Something is not among what there is, or there is nothing to do.
    """

    data: tuple[Path, ...]
    backbones: tuple[str, ...] = BACKBONES
    inits: tuple[str, ...] = INITS
    groups: tuple[str, ...] = (*GROUPS, PEER_GROUP)
    seeds: int = 5
    work: Path = Path("work/planner")
    device: str = "cpu"
    jobs: int = 1
    threads: int = 2
    stop_after_s: float | None = None
    max_epochs: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("backbones", BACKBONES),
            ("inits", INITS),
            ("groups", (*GROUPS, PEER_GROUP)),
        ):
            chosen = getattr(self, name)
            if not chosen or set(chosen) - set(known):
                raise ConfigError(f"{name}: expected some of {', '.join(known)}, got {chosen}")
        if not self.data or min(self.seeds, self.jobs, self.threads) < 1:
            raise ConfigError(f"expected data, seeds, jobs and threads, got {self}")

    @property
    def folder(self) -> Path:
        """Where checkpoints and answers go: trials are kept apart."""
        return self.work / f"trial-{self.max_epochs}" if self.max_epochs else self.work

    @property
    def command(self) -> str:
        """The command line that gives these settings, without paths of this machine."""
        words = ["python", "-m", "benchmarks.planner"]
        for path in self.data:
            words += ["--data", f"{dataset_name(path)}/{path.name}"]
        options = {"backbones": "--backbone", "inits": "--init", "groups": "--groups"}
        for name, option in options.items():
            default = PlannerSettings.__dataclass_fields__[name].default
            if getattr(self, name) != default:
                words += [option, ",".join(getattr(self, name))]
        words += ["--seeds", str(self.seeds), "--device", self.device]
        if self.max_epochs:
            words += ["--max-epochs", str(self.max_epochs)]
        return shlex.join(words)

    def units(self) -> list[Unit]:
        """Return all units, in an order in which nobody waits long for another's backbone."""
        units = [
            Unit(
                data=str(path),
                dataset=dataset_name(path),
                backbone=backbone,
                init=init,
                seed=seed,
                group=group,
                work=str(self.folder),
                device=self.device,
                max_epochs=self.max_epochs,
            )
            for path in self.data
            for seed in range(self.seeds)
            for backbone in self.backbones
            for init in self.inits
            for group in self.groups
        ]
        return sorted(units, key=_stage)


def run(settings: PlannerSettings, progress: Progress) -> dict[str, Any]:
    """Do what has not been done, and return the table so far.

    Args:
        settings: What to fill it with.
        progress: Where to show how far it is.

    Returns:
        See ``collect``.
    """
    answers = settings.folder / _ANSWERS
    answers.mkdir(parents=True, exist_ok=True)
    units = settings.units()
    waiting = [unit for unit in units if not (answers / f"{unit.name}.json").exists()]
    missing = [name for name in ("neural_compressor", "accelerate") if find_spec(name) is None]
    if missing:
        waiting = [unit for unit in waiting if unit.group != PEER_GROUP]
    bar = progress.add_task("units", total=len(units), completed=len(units) - len(waiting))
    deadline = (
        math.inf if settings.stop_after_s is None else time.monotonic() + settings.stop_after_s
    )
    failed: list[dict[str, str]] = []
    with ProcessPoolExecutor(settings.jobs, mp_context=get_context("spawn")) as pool:
        running: dict[Future[str], Unit] = {}
        while waiting or running:
            while waiting and len(running) < settings.jobs and time.monotonic() < deadline:
                unit = waiting.pop(0)
                running[pool.submit(_answer, unit, str(answers), settings.threads)] = unit
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(done)
                if isinstance(done.exception(), BrokenExecutor):
                    deadline = -math.inf  # no process is left to begin anything
                error = _error_of(done)
                if error:
                    failed.append({"unit": unit.name, "error": error})
                progress.update(bar, advance=1, description=unit.name)
    skipped = f"peers: need {' and '.join(missing)}" if missing else ""
    return {**collect(settings), "failed": failed, "skipped": skipped, "left": len(waiting)}


def collect(settings: PlannerSettings) -> dict[str, Any]:
    """Return what all answers so far say.

    Args:
        settings: Whose work folder to read.

    Returns:
        ``records``, one per dataset, backbone, initialisation, method and seed; ``paired``,
        tests of personal plans against each rival; ``sweeps``; ``spread``.
    """
    folder = settings.folder / _ANSWERS
    answers = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {
        "command": settings.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": read_environment(),
        "records": [record for answer in answers for record in answer["records"]],
        "paired": list(paired_tests(answers)),
        "sweeps": [sweep for answer in answers for sweep in answer["sweeps"]],
        "spread": [spread for answer in answers for spread in answer["spread"]],
        "training_seconds": sum(answer["seconds"] for answer in answers),
    }


def paired_tests(answers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Compare personal plans with each rival, user by user.

    A user's difference is the mean over the seeds that have both; the test is whether its
    mean over users is zero.

    Args:
        answers: Of ``run_unit``.

    Yields:
        ``dataset``, ``backbone``, ``init``, ``method``, ``rival``, ``n_seeds``, ``n_users``;
        ``difference`` of NDCG@10, its 95 % interval ``low`` and ``high``, and ``p``.
    """
    ndcg: dict[tuple[str, str, str], dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for answer in answers:
        for record in answer["records"]:
            key = (record["dataset"], record["backbone"], record["init"])
            own = answer["ndcg"][record["method"]]
            ndcg[key][record["method"]][record["seed"]] = own
    for (dataset, backbone, init), methods in sorted(ndcg.items()):
        for method in ("personal", "personal-standardised", "personal-pruning"):
            suffix = method.removeprefix("personal")
            rivals = (*(f"{rival}{suffix}" for rival in _RIVALS[-4:] if suffix), *_RIVALS)
            for rival in dict.fromkeys(rivals):
                seeds = sorted(methods[method].keys() & methods[rival].keys())
                if seeds:
                    yield {
                        "dataset": dataset,
                        "backbone": backbone,
                        "init": init,
                        "method": method,
                        "rival": rival,
                        "n_seeds": len(seeds),
                        **_test(methods[method][seed] for seed in seeds)(
                            methods[rival][seed] for seed in seeds
                        ),
                    }


def _test(own: Iterable[list[float]]) -> Any:
    mine = np.mean([np.array(values) for values in own], axis=0)

    def against(rival: Iterable[list[float]]) -> dict[str, float]:
        differences = mine - np.mean([np.array(values) for values in rival], axis=0)
        mean, n_users = float(differences.mean()), differences.size
        error = float(differences.std(ddof=1)) / math.sqrt(n_users)
        z = abs(mean) / error if error else 0.0
        return {
            "n_users": n_users,
            "difference": mean,
            "low": mean - 1.96 * error,
            "high": mean + 1.96 * error,
            "p": math.erfc(z / math.sqrt(2)),
        }

    return against


def summary(records: Iterable[Mapping[str, Any]], key: str) -> tuple[float, float, int]:
    """Return mean, standard deviation and number of one figure over seeds."""
    values = [float(record[key]) for record in records]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread, len(values)


def _answer(unit: Unit, folder: str, threads: int) -> str:
    """Run one unit in this process, keep its answer, and return what went wrong, if anything.

    Errors travel as text: not all of them can be sent from process to process.
    """
    import torch

    torch.set_num_threads(threads)
    path = Path(folder) / f"{unit.name}.json"
    try:
        write_atomically(path, json.dumps(run_unit(unit)).encode())
    except Exception as error:  # noqa: BLE001 - whatever it is, the other units go on
        return f"{type(error).__name__}: {error}"
    return ""


def _error_of(done: Future[str]) -> str:
    """Return what went wrong in a unit, or with its process."""
    error = done.exception()
    return done.result() if error is None else f"{type(error).__name__}: {error}"


def _stage(unit: Unit) -> tuple[int, str]:
    """Pretraining first, then what needs none, then the rest; peers last."""
    if unit.group == PEER_GROUP:
        return (4, "")
    is_pretrained = unit.init == "pretrained_frozen"
    if unit.group in {"personal-standardised", "personal-pruning"}:
        return (3, unit.dataset)
    if is_pretrained and unit.group == "float":
        return (0, unit.dataset)
    return (2, unit.dataset) if is_pretrained else (1, unit.dataset)
