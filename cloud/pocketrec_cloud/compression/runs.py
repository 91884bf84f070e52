# SPDX-License-Identifier: Apache-2.0
"""Reads the run that is to be compressed: its model, and how it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import MalformedArtifactError
from pocketrec_cloud.checkpoint import load_backbone, read_tensors
from pocketrec_cloud.compression.compressing import MODEL
from pocketrec_cloud.training import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_cloud.backbones.base import Backbone

__all__ = ["TrainedRun", "read_run"]

_LAST = "last.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedRun:
    """A trained model.

    Attributes:
        model: In evaluation mode.
        item_ids: V external ids in the order of the item indices.
        training: How it was trained; the defaults where only the model is left of a run.
    """

    model: Backbone
    item_ids: tuple[str, ...]
    training: TrainingConfig


def read_run(folder: Path) -> TrainedRun:
    """Read what ``pocketrec train`` left in a folder.

    Args:
        folder: With ``best.safetensors`` and, usually, ``last.safetensors``.

    Raises:
        MalformedArtifactError: A file is damaged.
        IncompatibleArtifactError: The model is of a kind that this release does not know.
        OSError: There is no model.
    """
    model, item_ids, _ = load_backbone(folder / MODEL)
    last = folder / _LAST
    if not last.exists():
        return TrainedRun(model=model, item_ids=item_ids, training=TrainingConfig())
    fields = read_tensors(last)[1].get("training")
    try:
        training = TrainingConfig(**fields if isinstance(fields, dict) else {})
    except (TypeError, ValueError) as error:
        raise MalformedArtifactError(f"training: {error}", field=str(last)) from error
    return TrainedRun(model=model, item_ids=item_ids, training=training)
