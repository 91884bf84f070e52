# SPDX-License-Identifier: Apache-2.0
"""Measures one method of ``codebook`` with one seed: trains, rounds its rows, ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.codebook_methods import METHODS, Context, Design
from pocketrec_cloud.collaborative import (
    CodebookTable,
    FitConfig,
    GraphModel,
    InteractionSplit,
    fit,
    rank_test,
    rank_validation,
)
from pocketrec_cloud.collaborative.fitting import FitProgress
from pocketrec_cloud.collaborative.row_rounding import round_rows

__all__ = ["CUTOFFS", "PAIRED", "Unit", "UnitSettings", "run_unit"]

CUTOFFS = (10, 20, 50)
PAIRED = ("recall@10", "recall@20", "ndcg@10")
_LAYERS = {"lightgcn": 2, "mf": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is measured at once.

    Attributes:
        suite: "lightgcn" or "mf".
        dataset: Its name.
        method: Of ``METHODS``.
        seed: Of clustering and training.
    """

    suite: str
    dataset: str
    method: str
    seed: int

    def file(self, folder: Path, bits: int) -> Path:
        """Return where the answers per user are kept."""
        return folder / f"{self.suite}-{self.dataset}-{self.method}-{bits}-{self.seed}.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    """What all units share.

    Attributes:
        config: How to train; the seed is the unit's.
        n_rows: Budget of users and items together.
        width: D.
        init_std: Standard deviation of the first values.
        work: Folder for answers per user and the full tables.
    """

    config: FitConfig
    n_rows: int
    width: int
    init_std: float
    work: Path


def run_unit(
    unit: Unit,
    split: InteractionSplit,
    settings: UnitSettings,
    *,
    found: dict[str, Any] | None = None,
    progress: FitProgress | None = None,
) -> Iterator[dict[str, Any]]:
    """Train a method and yield a record for each width of its rows.

    Args:
        unit: What.
        split: Of its data set.
        settings: How.
        found: What units of one suite, data set and seed share.
        progress: Told of every epoch.

    Yields:
        Records as in the result file.

    Raises:
        ConfigError: Training diverged.
    """
    method = METHODS[unit.method]
    context = Context(
        split=split,
        dataset=unit.dataset,
        n_rows=settings.n_rows,
        width=settings.width,
        seed=unit.seed,
        full_vectors=_full_vectors(unit, split, settings, progress),
        found={} if found is None else found,
    )
    started = time.monotonic()
    design = method.design(context)
    clustering_s = time.monotonic() - started
    model = _model(design, unit, split, settings)
    rate = settings.config.learning_rate * method.rate
    config = replace(settings.config, seed=unit.seed, learning_rate=rate)
    started = time.monotonic()
    n_epochs = fit(model, split, config, progress=progress).n_epochs if method.is_trained else 0
    seconds = time.monotonic() - started
    if unit.method == "full":
        _save_full(unit, model, settings.work)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for bits in method.bits:
        model.load_state_dict(state)
        _round(model, bits)
        yield {
            "suite": unit.suite,
            "dataset": unit.dataset,
            "method": unit.method,
            "seed": unit.seed,
            "row_bits": bits,
            "rows": design.users.n_rows + design.items.n_rows,
            "bytes": design.users.embedding_bytes(bits) + design.items.embedding_bytes(bits),
            **_quality(unit, model, split, settings.work, bits),
            "epochs": n_epochs,
            "max_epochs": settings.config.max_epochs,
            "seconds": seconds,
            "clustering_seconds": clustering_s,
            "sizes": {"users": _sizes(design.users.rows), "items": _sizes(design.items.rows)},
        }


def _model(
    design: Design, unit: Unit, split: InteractionSplit, settings: UnitSettings
) -> GraphModel:
    # Tables of one seed would start with equal rows.
    users, items = (
        CodebookTable(
            assignment, init_std=settings.init_std, seed=2 * unit.seed + number, warm=warm
        )
        for number, (assignment, warm) in enumerate(
            ((design.users, design.warm_users), (design.items, design.warm_items))
        )
    )
    return GraphModel(users, items, split.train, n_layers=_LAYERS[unit.suite])


def _full_vectors(
    unit: Unit, split: InteractionSplit, settings: UnitSettings, progress: FitProgress | None
) -> Callable[[], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    def read() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        full = replace(unit, method="full")
        path = _full_path(full, settings.work)
        if not path.exists():
            list(run_unit(full, split, settings, progress=progress))
        with np.load(path, allow_pickle=False) as tables:
            return tables["users"], tables["items"]

    return read


def _full_path(unit: Unit, work: Path) -> Path:
    return work / f"{unit.suite}-{unit.dataset}-full-{unit.seed}-tables.npz"


def _save_full(unit: Unit, model: GraphModel, work: Path) -> None:
    with torch.no_grad():
        np.savez(_full_path(unit, work), users=model.users().numpy(), items=model.items().numpy())


def _round(model: GraphModel, bits: int) -> None:
    if bits == 32:
        return
    with torch.no_grad():
        for table in (model.users, model.items):
            for codebook in table.codebooks:
                codebook.copy_(torch.from_numpy(round_rows(codebook.numpy(), bits)))


def _quality(
    unit: Unit, model: GraphModel, split: InteractionSplit, work: Path, bits: int
) -> dict[str, float]:
    found = rank_test(model, split)
    answers = {f"recall@{k}": found.recall(k) for k in CUTOFFS}
    answers |= {f"ndcg@{k}": found.ndcg(k) for k in CUTOFFS}
    # Its annotation has no keyword but allow_pickle.
    save: Any = np.savez
    save(unit.file(work, bits), **{name: answers[name] for name in PAIRED})
    record = {name: float(values.mean()) for name, values in answers.items()}
    record["validation_recall@20"] = float(rank_validation(model, split).recall(20).mean())
    return record


def _sizes(rows: NDArray[np.int64]) -> dict[str, int]:
    """Return how many rows have how many entities, by the primary row."""
    sizes, counts = np.unique(np.bincount(rows[:, 0]), return_counts=True)
    return {str(size): int(count) for size, count in zip(sizes, counts, strict=True) if size}
