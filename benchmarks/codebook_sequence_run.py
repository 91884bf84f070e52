# SPDX-License-Identifier: Apache-2.0
"""Measures one compressed item table after the other, and goes on where it was broken off."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.codebook_sequence_methods import METHODS, Method, product_by_faiss
from benchmarks.environment import read_environment
from pocketrec.console import json_text, stderr_console
from pocketrec.errors import InfeasibleBudgetError
from pocketrec.files import write_atomically
from pocketrec_cloud.backbones.base import Backbone
from pocketrec_cloud.compression.allocation import Budget, float_bytes, lay_out
from pocketrec_cloud.compression.choice import divergences, some_histories
from pocketrec_cloud.compression.compressing import Compression, compress, fine_tuning
from pocketrec_cloud.compression.report import relative_change
from pocketrec_cloud.compression.runs import TrainedRun, read_run
from pocketrec_cloud.data.options import read_split
from pocketrec_cloud.data.split import LeaveOneOut
from pocketrec_cloud.evaluation import Quality, SequenceModel, rank_all
from pocketrec_cloud.training import TrainingConfig, train
from pocketrec_cloud.training_display import training_display

__all__ = ["Settings", "Subject", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A trained backbone and its data."""

    name: str
    data: Path
    run: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        ratios: Bytes of the float table over the budgets.
        methods: Names of ``METHODS``; empty: all.
        epochs: Of every fine-tuning, the float table's too.
        max_minutes: Of a fine-tuning; None = no limit.
        seed: Of fits, trainings and evaluations.
    """

    ratios: tuple[float, ...]
    methods: tuple[str, ...]
    epochs: int
    max_minutes: float | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bench:
    """One subject, read, with the float table's quality, and histories to compare scores on."""

    name: str
    run: TrainedRun
    split: LeaveOneOut
    validation: Quality
    test: Quality
    histories: list[NDArray[np.int32]]
    settings: Settings

    @property
    def training(self) -> TrainingConfig:
        """How every fine-tuning of the table alone goes."""
        settings = self.settings
        return replace(
            fine_tuning(self.run.training, epochs=settings.epochs),
            max_minutes=settings.max_minutes,
            seed=settings.seed,
        )


def run(subjects: Sequence[Subject], settings: Settings, out: Path | None) -> dict[str, Any]:
    """Measure everything that is not in the file yet.

    Args:
        subjects: Backbones and their data.
        settings: Methods and budgets.
        out: The result file, written after every record; None: nowhere.

    Returns:
        ``records``, ``trials`` that were put into the file, and where they were measured.
    """
    before = json.loads(out.read_text()) if out is not None and out.exists() else {}
    result = {
        "records": before.get("records", []),
        "trials": before.get("trials", []),
        "environment": read_environment(),
    }
    for subject in subjects:
        for record in _records(subject, settings, result["records"]):
            result["records"].append(record)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(out, json_text(result).encode())
    return result


def _records(
    subject: Subject, settings: Settings, known: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    done = {_key(record) for record in known}
    bench: _Bench | None = None
    for method, ratio in _plan(settings):
        if (subject.name, method.name, ratio, settings.seed) in done:
            continue
        bench = bench or _read(subject, settings)
        started = time.monotonic()
        stderr_console().print(f"{subject.name}: {method.name} at 1/{ratio or 1:g}")
        record = _measure(bench, method, ratio)
        if record is not None:
            yield {**record, "seconds": time.monotonic() - started}


def _key(record: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(record[name] for name in ("dataset", "method", "budget_ratio", "seed"))


def _plan(settings: Settings) -> Iterator[tuple[Method, float | None]]:
    """Yield methods with their budgets; those whose bytes are what they are have none."""
    for method in METHODS:
        if settings.methods and method.name not in settings.methods:
            continue
        if method.has_budget:
            yield from ((method, ratio) for ratio in settings.ratios)
        else:
            yield method, None


def _read(subject: Subject, settings: Settings) -> _Bench:
    run_ = read_run(subject.run)
    split = read_split(subject.data, "auto", user=None, item=None, time=None)
    scorer = SequenceModel(run_.model, run_.model.config.window)
    qualities = [
        rank_all(scorer, split, stage=stage, seed=settings.seed) for stage in ("validation", "test")
    ]
    return _Bench(
        name=subject.name,
        run=run_,
        split=split,
        validation=qualities[0],
        test=qualities[1],
        histories=some_histories(split, seed=settings.seed),
        settings=settings,
    )


def _measure(bench: _Bench, method: Method, ratio: float | None) -> dict[str, Any] | None:
    """Return the record of one method, or None where its budget cannot be met."""
    shape = bench.run.model.config
    whole = float_bytes(shape.n_items, shape.embedding_dim)
    budget = Budget(
        n_items=shape.n_items,
        embedding_dim=shape.embedding_dim,
        max_bytes=whole if ratio is None else int(whole / ratio),
    )
    try:
        model, n_bytes, n_rows, course = _compressed(bench, method, budget)
    except InfeasibleBudgetError:
        return None
    scorer = SequenceModel(model.eval(), shape.window)
    seed = bench.settings.seed
    validation = rank_all(scorer, bench.split, stage="validation", seed=seed)
    test = rank_all(scorer, bench.split, stage="test", seed=seed)
    change = relative_change(test, bench.test)
    return {
        "suite": shape.kind,
        "dataset": bench.name,
        "method": method.name,
        "layout": method.layout,
        "labels": method.labels,
        "tuned": method.is_tuned,
        "budget_ratio": ratio,
        "seed": seed,
        "bytes": n_bytes,
        "ratio": whole / n_bytes,
        "bytes_per_item": n_bytes / shape.n_items,
        "n_items": shape.n_items,
        "rows": n_rows,
        "row_bits": method.bits,
        "hr@10": test.mean("hr", 10),
        "ndcg@10": test.mean("ndcg", 10),
        "ndcg@10_change": change.mean,
        "interval": list(change.interval),
        "validation_ndcg@10": validation.mean("ndcg", 10),
        "validation_change": relative_change(validation, bench.validation).mean,
        "divergence": divergences(bench.run.model, [model], bench.histories)[0],
        **course,
    }


def _compressed(
    bench: _Bench, method: Method, budget: Budget
) -> tuple[Backbone, int, int, dict[str, Any]]:
    """Return a model, the bytes and rows of its table, and how it came about."""
    trained, n_items = bench.run.model, budget.n_items
    if method.layout == "float":
        model = _tuned_float(bench) if method.is_tuned else trained
        return model, float_bytes(n_items, budget.embedding_dim), n_items, {}
    if method.layout == "faiss":
        embeddings = trained.item_embedding.weight.detach().numpy()
        decoded, n_bytes, n_rows = product_by_faiss(embeddings, budget, bench.settings.seed)
        model = copy.deepcopy(trained)
        model.item_embedding = nn.Embedding(
            decoded.shape[0], decoded.shape[1], _weight=torch.from_numpy(decoded)
        )
        return model, n_bytes, n_rows, {}
    layout = lay_out(method.layout, budget, method.bits)
    how = Compression(
        layout=layout,
        labels=method.source,
        training=bench.training if method.is_tuned else None,
        seed=bench.settings.seed,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        training_display(stderr_console(), bench.settings.epochs) as display,
    ):
        found = compress(trained, bench.split, how, folder=Path(folder) / "run", progress=display)
    course = {
        "codebooks": [asdict(book) for book in layout.codebooks],
        "fitted_validation_ndcg@10": found.fitted_ndcg10,
        "best_epoch": found.best_epoch,
        "epochs": len(found.history),
    }
    return found.model, layout.n_bytes(n_items), layout.n_rows, course


def _tuned_float(bench: _Bench) -> Backbone:
    """Train the float table on, with the rest frozen, as compressed ones are: the control.

    By the next event: a table that its teacher has already cannot be taught by it.
    """
    model = copy.deepcopy(bench.run.model)
    model.requires_grad_(requires_grad=False)
    model.item_embedding.requires_grad_(requires_grad=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        training_display(stderr_console(), bench.settings.epochs) as display,
    ):
        result = train(bench.split, model, bench.training, folder=Path(folder), progress=display)
    is_better = (result.best.validation_ndcg10 or 0.0) > bench.validation.mean("ndcg", 10)
    return result.model if is_better else bench.run.model
