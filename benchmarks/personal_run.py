# SPDX-License-Identifier: Apache-2.0
"""Runs ``personal``: which units there are, one after the other, each once."""

from __future__ import annotations

import json
import math
import shlex
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.environment import read_environment
from benchmarks.personal_device import DEVICE_FILE
from benchmarks.personal_regimes import REGIMES_FILE
from benchmarks.personal_settings import SETUPS, recipe_of
from benchmarks.personal_tests import by_history, paired_tests
from benchmarks.personal_unit import BACKBONES, Unit, run_unit
from benchmarks.planner_settings import dataset_name
from pocketrec.errors import ConfigError
from pocketrec.files import write_atomically

__all__ = ["PersonalSettings", "collect", "run"]

_ANSWERS = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalSettings:
    """What to fill the table with.

    Attributes:
        data: Files of interactions; each is called after its folder.
        groups: Of ``SETUPS``.
        seeds: How many, from 0.
        work: Folder for checkpoints and answers; the next run goes on there.
        stop_after_s: No unit is begun after so many seconds; None = no limit.
        max_epochs: Of every training, for trials; 0 = each recipe's.
        window: Events that the re-ranker reads; 0 = each recipe's.
        backbone: Of ``BACKBONES``.

    Raises:
        ConfigError: A group is unknown or none of a Caser, a window too long, or there is
            nothing to do.
    """

    data: tuple[Path, ...]
    groups: tuple[str, ...] = tuple(SETUPS)
    seeds: int = 1
    work: Path = Path("work/personal")
    stop_after_s: float | None = None
    max_epochs: int = 0
    window: int = 0
    backbone: str = "sasrec"

    def __post_init__(self) -> None:
        unknown = set(self.groups) - set(SETUPS)
        if unknown or not self.groups:
            raise ConfigError(f"groups: expected some of {', '.join(SETUPS)}, got {self.groups}")
        for group in self.groups:
            base = SETUPS[group].base
            if base and base not in self.groups[: self.groups.index(group)]:
                raise ConfigError(f"groups: expected {base} before {group}, which keeps its model")
            if self.backbone == "caser" and SETUPS[group].multiplier > 1:
                raise ConfigError(f"groups: expected none with a pool for a Caser, got {group}")
        if not self.data or self.seeds < 1 or self.backbone not in BACKBONES:
            raise ConfigError(f"expected data and seeds, got {self}")
        for path in self.data:
            recipe_of(dataset_name(path), self.window)

    @property
    def folder(self) -> Path:
        """Where checkpoints and answers lie; those of trials are kept apart."""
        return self.work / f"epochs-{self.max_epochs}" if self.max_epochs else self.work

    @property
    def command(self) -> str:
        """How to run it, with files as ``folder/name``."""
        words = ["python", "-m", "benchmarks.personal"]
        for path in self.data:
            words += ["--data", f"{dataset_name(path)}/{path.name}"]
        words += ["--seeds", str(self.seeds)]
        if self.groups != tuple(SETUPS):
            words += ["--groups", ",".join(self.groups)]
        if self.max_epochs:
            words += ["--max-epochs", str(self.max_epochs)]
        if self.window:
            words += ["--window", str(self.window)]
        if self.backbone != "sasrec":
            words += ["--backbone", self.backbone]
        return shlex.join(words)

    def units(self) -> list[Unit]:
        """Return all units; seed by seed, so that an interrupted table is even."""
        return [
            Unit(
                data=str(path),
                dataset=dataset_name(path),
                seed=seed,
                group=group,
                work=str(self.folder),
                max_epochs=self.max_epochs,
                window=self.window,
                backbone=self.backbone,
            )
            for path in self.data
            for seed in range(self.seeds)
            for group in self.groups
        ]


def run(settings: PersonalSettings, progress: Progress) -> dict[str, Any]:
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
    bar = progress.add_task("units", total=len(units), completed=len(units) - len(waiting))
    started = time.monotonic()
    while waiting and time.monotonic() - started < (settings.stop_after_s or math.inf):
        unit = waiting.pop(0)
        progress.update(bar, description=unit.name)
        answer = json.dumps({**run_unit(unit), "command": settings.command})
        write_atomically(answers / f"{unit.name}.json", answer.encode())
        progress.update(bar, advance=1)
    return {**collect(settings.folder), "left": len(waiting)}


def collect(work: Path) -> dict[str, Any]:
    """Return what all answers in a work folder say.

    Args:
        work: The folder of ``PersonalSettings``.

    Returns:
        ``records``, one per dataset, seed and method; ``paired``, tests of personal plans
        against each rival; ``by_history``, who gains; ``sweeps``, the course of every training;
        ``spread``; ``device`` and ``regimes``, what ``personal_device`` and
        ``personal_regimes`` measured.
    """
    device, regimes = work / DEVICE_FILE, work / REGIMES_FILE
    paths = sorted((work / _ANSWERS).glob("*.json"))
    answers = [json.loads(path.read_text()) for path in paths]
    return {
        "command": " && ".join(dict.fromkeys(answer["command"] for answer in answers)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": read_environment(),
        "records": [record for answer in answers for record in answer["records"]],
        "paired": list(paired_tests(answers)),
        "by_history": list(by_history(answers)),
        "sweeps": [
            {"unit": answer["unit"], **evaluation}
            for answer in answers
            for evaluation in answer["course"]
        ],
        "spread": [spread for answer in answers for spread in answer["spread"]],
        "training_seconds": sum(answer["seconds"] for answer in answers),
        "device": json.loads(device.read_text()) if device.exists() else [],
        "regimes": json.loads(regimes.read_text()) if regimes.exists() else [],
    }
