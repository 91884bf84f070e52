# SPDX-License-Identifier: Apache-2.0
"""What ``planner`` trains on each dataset: shapes and lengths, chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_cloud.backbones.base import BackboneShape
    from pocketrec_cloud.planning.configuration import PlannerTraining
    from pocketrec_cloud.training_run import TrainingConfig

__all__ = ["BACKBONES", "DATASETS", "INITS", "Recipe", "dataset_name", "recipe_of"]

BACKBONES = ("sasrec", "caser")
INITS = ("pretrained_frozen", "random_frozen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one backbone is trained on one dataset.

    Attributes:
        shape: Where it differs from the defaults of its configuration.
        training: Where pretraining differs from the defaults of ``TrainingConfig``.
        planning: Where the training of planners differs from ``PlannerTraining``.
        qat_epochs: Of quantization-aware training after pretraining.
    """

    shape: Mapping[str, Any]
    training: Mapping[str, Any]
    planning: Mapping[str, Any] = field(default_factory=dict)
    qat_epochs: int = 10

    def backbone(self, kind: str, n_items: int) -> BackboneShape:
        """Return the shape for a catalogue."""
        from pocketrec_cloud.backbones.caser import CaserConfig
        from pocketrec_cloud.backbones.sasrec import SASRecConfig

        config: type[Any] = {"sasrec": SASRecConfig, "caser": CaserConfig}[kind]
        shape: BackboneShape = config(n_items=n_items, **self.shape)
        return shape

    def pretraining(self, seed: int) -> TrainingConfig:
        """Return how the float backbone is trained."""
        from pocketrec_cloud.training_run import TrainingConfig

        return TrainingConfig(**self.training, seed=seed)

    def planner(self, seed: int) -> PlannerTraining:
        """Return how planners and their controls are trained."""
        from pocketrec_cloud.planning.configuration import PlannerTraining

        return PlannerTraining(**self.planning, seed=seed)

    def shortened(self, max_epochs: int) -> Recipe:
        """Return the same with fewer epochs, for trials."""
        limit = {"max_epochs": max_epochs, "evaluate_every": 1}
        return replace(
            self,
            training={**self.training, **limit},
            planning={**self.planning, **limit},
            qat_epochs=max_epochs,
        )


_LONG = {"tokens_per_batch": 6_400, "evaluate_every": 4, "patience": 4, "max_epochs": 100}
_SPARSE = {"tokens_per_batch": 4_096, "evaluate_every": 5, "patience": 3, "max_epochs": 120}
_PLAN_LONG = {"tokens_per_batch": 6_400, "max_epochs": 40, "evaluate_every": 4, "patience": 4}
_PLAN_SPARSE = {"tokens_per_batch": 8_192, "max_epochs": 32, "evaluate_every": 4, "patience": 3}

DATASETS: Mapping[str, Mapping[str, Recipe]] = {
    "ml-100k": {
        "sasrec": Recipe(shape={"window": 50, "dropout": 0.2}, training=_LONG, planning=_PLAN_LONG),
        "caser": Recipe(shape={"window": 10, "dropout": 0.2}, training=_LONG, planning=_PLAN_LONG),
    },
    "ml-1m": {
        "sasrec": Recipe(
            shape={"window": 200, "dropout": 0.2}, training=_LONG, planning=_PLAN_LONG
        ),
        "caser": Recipe(shape={"window": 10, "dropout": 0.2}, training=_LONG, planning=_PLAN_LONG),
    },
    **{
        name: {
            "sasrec": Recipe(
                shape={"window": 50, "dropout": 0.5}, training=_SPARSE, planning=_PLAN_SPARSE
            ),
            "caser": Recipe(
                shape={"window": 5, "dropout": 0.5}, training=_SPARSE, planning=_PLAN_SPARSE
            ),
        }
        for name in ("amazon-beauty", "amazon-cds", "yelp")
    },
}
"""By name of the dataset and kind of backbone."""

_SHORT = Recipe(
    shape={"window": 10, "embedding_dim": 16},
    training={"max_epochs": 4, "evaluate_every": 2, "patience": 2},
    planning={"max_epochs": 4, "evaluate_every": 2, "patience": 2},
    qat_epochs=1,
)


def dataset_name(data: Path) -> str:
    """Return what a file of interactions is called: the name of its folder."""
    return data.resolve().parent.name


def recipe_of(dataset: str, backbone: str) -> Recipe:
    """Return how to train on a dataset; on an unknown one, something small.

    Args:
        dataset: What ``dataset_name`` returned.
        backbone: Of ``BACKBONES``.
    """
    return DATASETS[dataset][backbone] if dataset in DATASETS else _SHORT
