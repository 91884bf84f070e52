# SPDX-License-Identifier: Apache-2.0
"""The float backbones that every setup of ``personal`` starts from, kept between runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.personal_slices import shortened
from pocketrec.errors import ConfigError
from pocketrec_cloud.backbones.caser import CaserConfig
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_cloud.checkpoint import load_backbone
from pocketrec_cloud.training import train
from pocketrec_cloud.training_run import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.personal_settings import Recipe
    from benchmarks.personal_unit import Unit
    from pocketrec_cloud.backbones.base import Backbone, BackboneShape
    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = ["pretrain", "start_of"]


class _Silent:
    """Watches a training without a word."""

    def batch(self, *, epoch: int, done: float, loss: float) -> None:
        """Say nothing."""

    def epoch(self, record: object) -> None:
        """Say nothing."""


def start_of(unit: Unit, split: LeaveOneOut, work: Path) -> Backbone:
    """Return the float backbone of a unit; whoever comes first trains it.

    A SASRec is trained at the full window of its dataset, and cut to that of the unit. A Caser
    knows its events by their places, and is trained at the window of the unit.

    Args:
        unit: What to train.
        split: Its data.
        work: Where backbones are kept.

    Raises:
        ConfigError: A Caser is asked for a pool, which it has not.
    """
    multiplier, n_items, own = unit.setup.multiplier, split.dataset.n_items, unit.recipe
    if unit.backbone == "caser":
        if multiplier != 1:
            raise ConfigError(f"{unit.group}: expected a setup without a pool for a Caser")
        caser = CaserConfig(
            n_items=n_items,
            embedding_dim=own.dim,
            window=own.window,
            max_height=min(own.window, 5),
            dropout=own.dropout,
        )
        return pretrain(split, caser, own, work / f"{unit.stem}-x1", seed=unit.seed)
    recipe = unit.full_recipe
    sasrec = SASRecConfig(
        n_items=n_items,
        embedding_dim=recipe.dim,
        window=recipe.window,
        ffn_multiplier=multiplier,
        dropout=recipe.dropout,
    )
    folder = work / f"{unit.dataset}-sasrec-{unit.seed}-x{multiplier}"
    model = pretrain(split, sasrec, recipe, folder, seed=unit.seed)
    if isinstance(model, SASRec) and own.window < recipe.window:
        return shortened(model, own.window)
    return model


def pretrain(
    split: LeaveOneOut, shape: BackboneShape, recipe: Recipe, folder: Path, *, seed: int
) -> Backbone:
    """Return a float backbone, trained unless it lies in its folder.

    Args:
        split: The held-out data.
        shape: Of the backbone.
        recipe: How long and how hard.
        folder: Where it is kept.
        seed: Of everything random.
    """
    if not (folder / "done").exists():
        config = TrainingConfig(
            max_epochs=recipe.pretraining_epochs,
            evaluate_every=recipe.evaluate_every,
            patience=recipe.patience,
            tokens_per_batch=recipe.tokens_per_batch,
            seed=seed,
        )
        train(split, shape, config, folder=folder, progress=_Silent(), resume=True)
        (folder / "done").touch()
    model, _, _ = load_backbone(folder / "best.safetensors")
    return model
