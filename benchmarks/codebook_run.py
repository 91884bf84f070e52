# SPDX-License-Identifier: Apache-2.0
"""Runs ``codebook``: which units there are, one after the other, each once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from scipy import stats

from benchmarks.codebook_methods import METHODS
from benchmarks.codebook_unit import PAIRED, Unit, UnitSettings, run_unit
from benchmarks.environment import read_environment, version_of
from pocketrec.errors import ConfigError
from pocketrec.files import write_atomically
from pocketrec_cloud.collaborative import FitConfig, InteractionSplit

__all__ = ["SUITES", "CodebookSettings", "paired_tests", "run"]

SUITES = ("lightgcn", "mf")
_RESAMPLES = 1_000
_RESAMPLES_AT_ONCE = 100
_LIBRARIES = ("scipy", "scikit-network", "scikit-learn", "faiss-cpu", "numba")
_OURS = (
    "residual-trained",
    "k-means-trained",
    "k-means-quarter-trained",
    "ours-u-warm",
    "ours-ui-warm",
    "ours-ui",
    "ours-u",
    "ours",
)
_RIVALS = ("full", "full-longer", "residual-trained", "graphhash", "graphhash-u", "hash", "paper-u")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookSettings:
    """What to measure.

    Attributes:
        data: Folder of a data set.
        suites: Of ``SUITES``.
        methods: Of ``METHODS``.
        seeds: How many, from 0.
        n_rows: Budget of users and items together.
        width: D.
        init_std: Standard deviation of the first values.
        learning_rate: Of Adam.
        decay: Weight of the norm, see ``FitConfig``.
        batch_size: Interactions per step.
        max_epochs: At most.
        patience: Evaluations without a better one.
        work: Folder for answers per user and the full tables.
        threads: CPU threads.

    Raises:
        ConfigError: Something is not among what there is, or there is nothing to do.
    """

    data: Path
    suites: tuple[str, ...] = ("lightgcn",)
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 3
    n_rows: int = 9_000
    width: int = 64
    init_std: float = 0.1
    learning_rate: float = 2e-2
    decay: float = 1e-2
    batch_size: int = 20_000
    max_epochs: int = 200
    patience: int = 3
    work: Path = Path("work/codebook")
    threads: int = 2

    def __post_init__(self) -> None:
        """Check the names."""
        for kind, chosen, known in (
            ("suites", self.suites, SUITES),
            ("methods", self.methods, tuple(METHODS)),
        ):
            unknown = [name for name in chosen if name not in known]
            if unknown or not chosen:
                raise ConfigError(f"{kind}: expected some of {', '.join(known)}, found {chosen!r}")
        if self.seeds < 1 or self.n_rows < 2:
            raise ConfigError(f"expected a seed and 2 rows at least, found {self}")

    @property
    def dataset(self) -> str:
        """Name of the data set: that of its folder, or of the one that holds its splits."""
        folder = self.data.resolve()
        return folder.parent.name if folder.name.startswith("split") else folder.name

    @property
    def config(self) -> FitConfig:
        """How to train."""
        return FitConfig(
            learning_rate=self.learning_rate,
            decay=self.decay,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            patience=self.patience,
        )

    def units(self) -> Iterator[Unit]:
        """Yield units, seed by seed, in the order of ``METHODS``."""
        for seed in range(self.seeds):
            for suite in self.suites:
                for method in METHODS:
                    if method in self.methods:
                        yield Unit(suite=suite, dataset=self.dataset, method=method, seed=seed)


def run(settings: CodebookSettings, path: Path | None, progress: Progress) -> dict[str, Any]:
    """Measure what the file does not have yet, and write it after every unit.

    Args:
        settings: What to measure.
        path: The result file; None keeps results in memory.
        progress: Where to show how far it is.

    Returns:
        The result, records of earlier runs included.

    Raises:
        ConfigError: A method cannot be measured.
    """
    torch.set_num_threads(settings.threads)
    settings.work.mkdir(parents=True, exist_ok=True)
    result = _start(path)
    split = InteractionSplit.read(settings.data)
    done = {_key(record) for record in result["records"]}
    units = [unit for unit in settings.units() if _key(asdict(unit)) not in done]
    task = progress.add_task("", total=len(units))
    shared = UnitSettings(
        config=settings.config,
        n_rows=settings.n_rows,
        width=settings.width,
        init_std=settings.init_std,
        work=settings.work,
    )
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for unit in units:
        name = f"{unit.suite} {unit.dataset} {unit.method} {unit.seed}"

        def show(*, epoch: int, loss: float, recall: float | None, name: str = name) -> None:
            if recall is not None:
                text = f"{name}: epoch {epoch}, loss {loss:.4f}, validation {100 * recall:.2f} %"
                progress.update(task, description=text)

        progress.update(task, description=name)
        common = found.setdefault((unit.suite, unit.seed), {})
        result["records"] += list(run_unit(unit, split, shared, found=common, progress=show))
        _finish(result, settings, split)
        if path is not None:
            write_atomically(path, json.dumps(result, indent=1).encode())
        progress.advance(task)
    return result


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("suite", "dataset", "method", "seed"))


def _start(path: Path | None) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "settings": {},
        "environment": {},
        "records": [],
        "tests": [],
        "graphs": {},
    }
    if path is None or not path.exists():
        return empty
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return empty | found


def _finish(result: dict[str, Any], settings: CodebookSettings, split: InteractionSplit) -> None:
    """Renew what is said about the run as a whole."""
    environment = read_environment() | {name: version_of(name) for name in _LIBRARIES}
    result["environment"] = environment | {"threads": settings.threads}
    result["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    options = {
        "seeds": settings.seeds,
        "rows": settings.n_rows,
        "learning-rate": settings.learning_rate,
        "decay": settings.decay,
        "batch-size": settings.batch_size,
        "max-epochs": settings.max_epochs,
        "patience": settings.patience,
    }
    words = [f"--{name} {value}" for name, value in options.items()]
    folder = settings.data.resolve()
    name = folder.name if folder.name == settings.dataset else f"{settings.dataset}/{folder.name}"
    command = ["python -m benchmarks.codebook", f"--data {shlex.quote(name)}", *words]
    chosen = {
        name: value for name, value in asdict(settings).items() if name not in {"data", "work"}
    }
    result["settings"][settings.dataset] = chosen | {"command": " ".join(command)}
    result["graphs"][settings.dataset] = {
        "users": split.n_users,
        "items": split.n_items,
        "train": split.train.nnz,
        "validation": split.validation.nnz,
        "test": split.test.nnz,
    }
    kept = [test for test in result["tests"] if test["dataset"] != settings.dataset]
    result["tests"] = kept + paired_tests(result["records"], settings)


def paired_tests(
    records: Sequence[Mapping[str, Any]], settings: CodebookSettings
) -> list[dict[str, Any]]:
    """Return how our methods differ from others over the same users, rows in float32.

    A user's value is the mean over the seeds that both have.

    Args:
        records: What was measured.
        settings: Which data set, and where the answers per user are.
    """
    seeds: dict[tuple[str, str], set[int]] = {}
    for record in records:
        if record["dataset"] == settings.dataset:
            seeds.setdefault((record["suite"], record["method"]), set()).add(record["seed"])
    pairs = [
        (suite, ours, rival, both)
        for suite in SUITES
        for ours in _OURS
        for rival in _RIVALS
        if ours != rival
        and (both := seeds.get((suite, ours), set()) & seeds.get((suite, rival), set()))
    ]
    compared: list[tuple[dict[str, Any], NDArray[np.float64]]] = []
    for suite, ours, rival, both in pairs:
        mine, theirs = (
            [Unit(suite=suite, dataset=settings.dataset, method=m, seed=s) for s in both]
            for m in (ours, rival)
        )
        if all(unit.file(settings.work, 32).exists() for unit in (*mine, *theirs)):
            compared += _compare(mine, theirs, settings.work)
    if not compared:
        return []
    found = _intervals(np.stack([differences for _, differences in compared]))
    return [
        test | {"low": low, "high": high}
        for (test, _), (low, high) in zip(compared, found, strict=True)
    ]


def _compare(
    ours: list[Unit], rivals: list[Unit], work: Path
) -> Iterator[tuple[dict[str, Any], NDArray[np.float64]]]:
    """Yield a test for each metric, with the differences of the users."""
    answers = [[np.load(unit.file(work, 32)) for unit in side] for side in (ours, rivals)]
    for metric in PAIRED:
        mine, theirs = (np.mean([found[metric] for found in side], axis=0) for side in answers)
        yield (
            {
                "suite": ours[0].suite,
                "dataset": ours[0].dataset,
                "metric": metric,
                "method": ours[0].method,
                "rival": rivals[0].method,
                "difference": float((mine - theirs).mean()),
                "p": float(stats.ttest_rel(mine, theirs).pvalue),
                "users": int(mine.size),
                "seeds": len(ours),
            },
            mine - theirs,
        )


def _intervals(differences: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return 95 % intervals of the means of rows, all from the same resampled users."""
    n_users = differences.shape[1]
    rng, shares = np.random.default_rng(0), np.full(n_users, 1 / n_users)
    means = np.concatenate(
        [
            rng.multinomial(n_users, shares, size=_RESAMPLES_AT_ONCE) @ differences.T / n_users
            for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
