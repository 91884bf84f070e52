# SPDX-License-Identifier: Apache-2.0
"""Runs ``runtime_costs``: which jobs, in which order, and what becomes of their answers."""

from __future__ import annotations

import json
import shlex
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.environment import read_environment
from benchmarks.processes import start_worker
from benchmarks.runtime_costs_targets import targets
from benchmarks.shapes import Shape
from pocketrec.errors import ConfigError

__all__ = ["CONFIGS", "CostSettings", "Costs", "medians"]

CONFIGS = ("64x50x2", "64x200x2", "128x200x2", "256x200x4")
SWAPS = ("adapter", "rebuild", "auto")
COMPUTES = ("fp32", "int8", "packed", "auto")
SMALL, LARGE = "64x8x4", "1024x8x4"
N_ITEMS_WEIGHED = 100
_WORKER = "benchmarks.runtime_costs_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSettings:
    """What to measure, and how often.

    Attributes:
        configs: ``"DxLxblocks"`` each.
        large: The model whose weights are looked for in memory, beside one of 64 dimensions;
            of both, windows and catalogues are small beside the weights.
        repeat: Rounds; a round does every job once, each in a process of its own.
        min_seconds: Timed seconds per figure, at least.
        min_runs: Timed calls per figure, at least.
        n_items: V.
        seed: Of weights and plans.

    Raises:
        ConfigError: A configuration is none, or a number too small.
    """

    configs: tuple[str, ...] = CONFIGS
    large: str = LARGE
    repeat: int = 5
    min_seconds: float = 0.5
    min_runs: int = 50
    n_items: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.repeat, self.min_runs) < 1 or self.min_seconds < 0 or not self.configs:
            raise ConfigError(f"expected something to measure and at least once, got {self}")
        for text in self.configs:
            Shape.parse(text, n_items=self.n_items)
        small, large = Shape.parse(SMALL), Shape.parse(self.large)
        if (large.window, large.blocks) != (small.window, small.blocks) or large.d <= small.d:
            raise ConfigError(f"large: expected D x 8 x 4, D above 64; got {self.large!r}")

    @property
    def command(self) -> str:
        """The command line that gives these settings."""
        default, words = CostSettings(), ["python", "-m", "benchmarks.runtime_costs"]
        for name, value in asdict(self).items():
            if value != getattr(default, name):
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                words += [f"--{name.removeprefix('n_').replace('_', '-')}", text]
        return shlex.join(words)


class Costs:
    """One run.

    Args:
        settings: What to measure.
        progress: Where to show how far it is.
    """

    def __init__(self, settings: CostSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._bar = progress.add_task("", total=None)

    def run(self) -> dict[str, Any]:
        """Return everything that was measured, and how it stands to the targets."""
        settings = self._settings
        environment = read_environment()
        with tempfile.TemporaryDirectory() as folder:
            records = self._measure(Path(folder))
        return {
            "command": settings.command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": asdict(settings),
            "environment": environment,
            "targets": targets(records),
            "records": records,
        }

    def _measure(self, folder: Path) -> list[dict[str, Any]]:
        once = [{"task": "build", "config": name} for name in self._configs]
        once += [{"task": "count", "config": name} for name in (SMALL, self._settings.large)]
        again = list(self._jobs())
        n_rounds = self._settings.repeat
        self._progress.update(self._bar, total=len(once) + n_rounds * len(again))
        records = [{**job, **self._do(job, folder)} for job in once]
        rounds = [[self._do(job, folder) for job in again] for _ in range(n_rounds)]
        merged = [medians(answers) for answers in zip(*rounds, strict=True)]
        return records + [{**job, **found} for job, found in zip(again, merged, strict=True)]

    @property
    def _configs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._settings.configs, SMALL, self._settings.large)))

    def _jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = []
        for config in self._settings.configs:
            jobs += [{"task": task, "config": config} for task in ("memory", "start", "slate")]
            jobs += [{"task": "swap", "config": config, "swap": swap} for swap in SWAPS]
            jobs += [{"task": "kernels", "config": config, "compute": each} for each in COMPUTES]
        for compute in COMPUTES:
            for swap in ("adapter", "auto"):
                jobs += [
                    {"task": "weights", "config": config, "compute": compute, "swap": swap}
                    for config in (SMALL, self._settings.large)
                ]
        return jobs

    def _do(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Do a job in a fresh process; return its answer, or ``{"error": ...}``."""
        settings = self._settings
        self._progress.update(self._bar, description=job_name(job))
        is_weighed = job["config"] in {SMALL, settings.large}
        n_items = N_ITEMS_WEIGHED if is_weighed else settings.n_items
        shape = Shape.parse(job["config"], n_items=n_items)
        answer = folder / "answer.json"
        answer.unlink(missing_ok=True)
        whole = {
            **job,
            "shape": asdict(shape),
            "model": str(folder / shape.name),
            "answer": str(answer),
            "seed": settings.seed,
            "min_seconds": settings.min_seconds,
            "min_runs": settings.min_runs,
            "spawned_ns": time.monotonic_ns(),
        }
        ended = start_worker(_WORKER, whole)
        self._progress.advance(self._bar)
        if not answer.exists():
            return {"error": ended}
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def job_name(job: dict[str, Any]) -> str:
    """Return what a job is called."""
    choices = [f"{key}={job[key]}" for key in ("compute", "swap") if key in job]
    return " ".join([job["config"], job["task"], *choices])


def medians(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every number in the same place; the first of everything else.

    Args:
        answers: To the same job; an error in one of them is all that is returned.
    """
    failed = [one for one in answers if "error" in one]
    if failed:
        return failed[0]
    found: dict[str, Any] = {}
    for key, first in answers[0].items():
        if isinstance(first, dict):
            found[key] = medians([one[key] for one in answers])
        elif isinstance(first, int | float):
            found[key] = statistics.median(one[key] for one in answers)
        else:
            found[key] = first
    return found
