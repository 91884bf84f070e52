# SPDX-License-Identifier: Apache-2.0
"""Named trainings: the shape of a backbone and how long to train it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_cloud.backbones.registry import KINDS
from pocketrec_cloud.training import TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketrec_cloud.backbones.base import BackboneShape

__all__ = ["PRESETS", "TrainingPreset", "preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPreset:
    """Everything about a training but the data.

    Attributes:
        summary: What it is for, one line.
        kind: Of backbone.
        shape: Fields of the kind's configuration where they differ from its defaults; V
            comes from the data.
        training: How long and how hard.
    """

    summary: str
    kind: str = "sasrec"
    shape: Mapping[str, float] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def backbone(self, n_items: int) -> BackboneShape:
        """Return the backbone for a catalogue of ``n_items``."""
        return KINDS[self.kind].shape(n_items=n_items, **self.shape)


_DEMO_TRAINING = TrainingConfig(
    max_epochs=30,
    max_minutes=1.0,
    evaluate_every=2,
    patience=3,
    tokens_per_batch=3_200,
    learning_rate=2e-3,
)

PRESETS: Mapping[str, TrainingPreset] = {
    "demo": TrainingPreset(
        summary="the generated catalogue, a minute at most",
        shape={"window": 50, "embedding_dim": 64, "dropout": 0.1},
        training=_DEMO_TRAINING,
    ),
    "ml-1m": TrainingPreset(
        summary="MovieLens-1M, stopped early: some ten minutes on two cores",
        shape={"window": 200, "dropout": 0.2},
        training=TrainingConfig(tokens_per_batch=6_400, max_minutes=10, evaluate_every=4),
    ),
    "ml-1m-full": TrainingPreset(
        summary="MovieLens-1M until validation stops improving",
        shape={"window": 200, "dropout": 0.2},
        training=TrainingConfig(tokens_per_batch=6_400),
    ),
    "beauty-full": TrainingPreset(
        summary="Amazon Beauty until validation stops improving",
        shape={"window": 50, "dropout": 0.5},
        training=TrainingConfig(tokens_per_batch=2_048),
    ),
    "caser-demo": TrainingPreset(
        summary="Caser on the generated catalogue, a minute at most",
        kind="caser",
        shape={"window": 10, "dropout": 0.2},
        training=_DEMO_TRAINING,
    ),
    "caser-ml-1m-full": TrainingPreset(
        summary="Caser on MovieLens-1M until validation stops improving",
        kind="caser",
        shape={"window": 10, "dropout": 0.2},
        training=TrainingConfig(tokens_per_batch=6_400),
    ),
    "caser-beauty-full": TrainingPreset(
        summary="Caser on Amazon Beauty until validation stops improving",
        kind="caser",
        shape={"dropout": 0.5},
        training=TrainingConfig(tokens_per_batch=2_048),
    ),
}


def preset(name: str) -> TrainingPreset:
    """Return a preset by name.

    Args:
        name: One of ``PRESETS``.

    Returns:
        The preset.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"expected a preset of {sorted(PRESETS)}, found {name!r}")
    return PRESETS[name]
