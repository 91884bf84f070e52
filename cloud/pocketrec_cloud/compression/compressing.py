# SPDX-License-Identifier: Apache-2.0
"""Replaces the item table of a trained backbone by codebooks, and trains on from there."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_cloud.checkpoint import save_backbone
from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.fitting import fit_table, item_weights
from pocketrec_cloud.compression.labels import Evidence
from pocketrec_cloud.evaluation import SequenceModel, rank_all
from pocketrec_cloud.training import train

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.compression.labels import LabelSource
    from pocketrec_cloud.compression.layout import TableLayout
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.training import EpochRecord, Progress, TrainingConfig

__all__ = ["MODEL", "Compressed", "Compression", "compress", "fine_tuning", "with_table"]

MODEL = "best.safetensors"
"""The file of a run with the model to use."""

_SHARE, _TABLE_SHARE = 0.2, 1.0  # of the first step size, for the whole model and a table alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How a table is compressed.

    Attributes:
        layout: Of the new table.
        labels: Where groups of items that share a row come from; None: k-means of the
            trained embeddings, as for every further codebook.
        trains_backbone: Whether the rest of the model learns with the table. Otherwise
            every plan made for the model stays valid.
        training: How long and how hard; None: the fitted table as it is.
        seed: Of fits and evaluations.
    """

    layout: TableLayout
    labels: LabelSource | None = None
    trains_backbone: bool = True
    training: TrainingConfig | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compressed:
    """A model with a compressed table, and how it came about.

    Attributes:
        model: In evaluation mode.
        fitted_ndcg10: Validation NDCG@10 of the fitted table, before any training.
        history: One record per epoch.
        best_epoch: Which epoch the model is from; 0: fitted, not trained.
    """

    model: Backbone
    fitted_ndcg10: float
    history: tuple[EpochRecord, ...]
    best_epoch: int


def compress(
    trained: Backbone,
    split: LeaveOneOut,
    how: Compression,
    *,
    folder: Path,
    progress: Progress,
) -> Compressed:
    """Fit a table to a trained model's, train, and keep what validates best.

    Args:
        trained: A backbone with a row for each item; unchanged.
        split: The interactions it was trained on.
        how: Layout and training.
        folder: Where the checkpoints go, as those of a training.
        progress: Told of every batch and epoch.

    Returns:
        The model; ``folder / MODEL`` holds it.

    Raises:
        ConfigError: The table is compressed already, the layout does not fit it, or the
            folder holds a run.
    """
    if (folder / MODEL).exists():
        raise ConfigError(f"expected no run in {folder}, found {MODEL}: name another folder")
    model = with_table(trained, _fit(trained, split, how))
    fitted = copy.deepcopy(model)
    scorer = SequenceModel(fitted, fitted.config.window)
    ndcg10 = rank_all(scorer, split, stage="validation", seed=how.seed).mean("ndcg", 10)
    history: tuple[EpochRecord, ...] = ()
    if how.training is not None:
        for parameter in model.parameters():
            parameter.requires_grad_(how.trains_backbone)
        model.item_embedding.requires_grad_(requires_grad=True)
        result = train(split, model, how.training, folder=folder, progress=progress)
        history = tuple(result.history)
        if (result.best.validation_ndcg10 or 0.0) > ndcg10:
            best_epoch = result.best.epoch
            return Compressed(
                model=result.model, fitted_ndcg10=ndcg10, history=history, best_epoch=best_epoch
            )
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, object] = {"epoch": 0, "ndcg@10": ndcg10}
    save_backbone(folder / MODEL, fitted, split.dataset.item_ids, facts)
    return Compressed(model=fitted, fitted_ndcg10=ndcg10, history=history, best_epoch=0)


def fine_tuning(training: TrainingConfig, *, trains_backbone: bool) -> TrainingConfig:
    """Return how to train on with codebooks, after a training that has converged.

    Args:
        training: How the model was trained.
        trains_backbone: Whether all of it learns, and not the table alone.
    """
    return replace(
        training,
        max_epochs=20,
        evaluate_every=1,
        patience=4,
        decay_patience=1,
        learning_rate=training.learning_rate * (_SHARE if trains_backbone else _TABLE_SHARE),
    )


def with_table(model: Backbone, table: CodebookEmbedding) -> Backbone:
    """Return a copy of a model, in evaluation mode, with another item table.

    To train with a table from scratch, give ``train`` an untrained model with one.

    Args:
        model: A backbone; unchanged.
        table: Of as many items and columns.

    Raises:
        ConfigError: The table is of another size.
    """
    found = (table.n_items, table.layout.embedding_dim)
    expected = (model.config.n_items, model.config.embedding_dim)
    if found != expected:
        raise ConfigError(f"expected a table of (V, D) {expected}, found {found}")
    changed = copy.deepcopy(model).eval()
    changed.item_embedding = table
    return changed


def _fit(trained: Backbone, split: LeaveOneOut, how: Compression) -> CodebookEmbedding:
    if isinstance(trained.item_embedding, CodebookEmbedding):
        raise ConfigError(
            "expected a model with a row for each item, found codebooks: name the run that "
            "they were made from"
        )
    embeddings = trained.item_embedding.weight.detach().cpu().numpy()
    weights = item_weights(split)
    labels = None
    if how.labels is not None:
        evidence = Evidence(
            embeddings=embeddings[1:], weights=weights, sequences=split.train_sequences()
        )
        n_groups = how.layout.codebooks[0].n_rows - 1
        labels = how.labels.labels(n_groups, evidence, seed=how.seed)
    return fit_table(how.layout, embeddings, weights=weights, labels=labels, seed=how.seed)
