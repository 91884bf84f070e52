# SPDX-License-Identifier: Apache-2.0
"""What the cloud's commands report: records for programs, tables for people."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pocketrec import __version__
from pocketrec_cloud.evaluation import SequenceModel, evaluate, popularity_scorer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.training import TrainingConfig, TrainingResult
    from pocketrec_quantization.bundle import BundleFolder

__all__ = ["draw_parts", "draw_plan", "draw_training", "training_record"]


def training_record(
    result: TrainingResult, split: LeaveOneOut, *, preset_name: str, config: TrainingConfig
) -> dict[str, Any]:
    """Test a trained model once, with the control beside it.

    Args:
        result: What ``train`` returned.
        split: The data it was trained on.
        preset_name: How it was trained.
        config: How it was trained; its seed also breaks ties and draws the negatives.

    Returns:
        Quality, course and circumstances of the training.
    """
    model = SequenceModel(result.model, result.model.config.window)
    quality = {
        result.model.config.kind: evaluate(model, split, stage="test", seed=config.seed),
        "popularity": evaluate(popularity_scorer(split), split, stage="test", seed=config.seed),
    }
    return {
        "preset": preset_name,
        "seed": config.seed,
        "n_users": split.dataset.n_users,
        "n_items": split.dataset.n_items,
        "n_events": split.dataset.n_events,
        "kind": result.model.config.kind,
        "backbone": asdict(result.model.config),
        "training": asdict(config),
        "stopped": result.stopped,
        "best_epoch": result.best.epoch,
        "epochs": len(result.history),
        "training_minutes": sum(record.seconds for record in result.history) / 60,
        "validation_ndcg@10": result.best.validation_ndcg10,
        "test": {name: ranks.full.as_record() for name, ranks in quality.items()},
        "test_1_to_99": {name: ranks.sampled.as_record() for name, ranks in quality.items()},
        "versions": {"pocketrec": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": torch.get_num_threads(),
    }


def draw_training(console: Console, record: Mapping[str, Any]) -> None:
    """Draw how the models rank the test users' last events.

    Args:
        console: Where to.
        record: What ``training_record`` returned.
    """
    title = f"Test users' last event, best of {record['epochs']} epochs"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("model", "ranked among", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "95 % interval"):
        table.add_column(column, no_wrap=True)
    for protocol, among in (("test", "all items"), ("test_1_to_99", "1 of 100")):
        for model, values in record[protocol].items():
            low, high = values["ndcg@10_interval"]
            metrics = [f"{values[name]:.4f}" for name in ("hr@5", "hr@10", "ndcg@5", "ndcg@10")]
            table.add_row(model, among, *metrics, f"{low:.4f}–{high:.4f}")
    console.print(table)


def draw_parts(console: Console, parts: Mapping[str, int], bundle: BundleFolder) -> None:
    """Draw a bundle's parts, largest first, and say where everything lies.

    Args:
        console: Where to.
        parts: Part name to bytes.
        bundle: What was built.
    """
    table = Table(title="Bundle", show_footer=True)
    table.add_column("part", footer="all")
    table.add_column("bytes", justify="right", footer=f"{sum(parts.values()):,}")
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        table.add_row(name, f"{size:,}")
    console.print(table)
    where = f"for devices: {bundle.path}; for the server and for benchmarks: the files beside it"
    console.print(where, markup=False, soft_wrap=True)


def draw_plan(console: Console, result: Mapping[str, Any]) -> None:
    """Draw what a plan costs.

    Args:
        console: Where to.
        result: What ``plan make`` found.
    """
    table = Table(title=f"Plan by '{result['planner']}'", show_header=False)
    for key in ("effective_bits", "coded_bytes", "budget_bytes", "payload_bytes", "header_bytes"):
        value = result[key]
        table.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value:.3f}")
    console.print(table)
