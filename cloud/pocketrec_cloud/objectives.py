# SPDX-License-Identifier: Apache-2.0
"""What a training makes smaller, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pocketrec_cloud.losses import sampled_softmax_loss

if TYPE_CHECKING:
    from torch import Tensor

    from pocketrec_cloud.backbones.base import Backbone

__all__ = ["NextEvent", "Objective"]


class Objective(Protocol):
    """Whoever says how wrong a model is."""

    @property
    def has_dropout(self) -> bool:
        """Whether the model is trained with dropout."""
        ...

    def loss(self, model: Backbone, inputs: Tensor, targets: Tensor, *, n_negatives: int) -> Tensor:
        """Return the mean loss of a batch's targets, () float32.

        Args:
            model: The backbone.
            inputs: (B, T) int64, 0 where there is nothing.
            targets: (B, T) int64, likewise.
            n_negatives: Of the sampled softmax.
        """
        ...


@dataclass(frozen=True, slots=True)
class NextEvent:
    """The next event of everybody, against sampled others."""

    has_dropout: bool = True

    def loss(self, model: Backbone, inputs: Tensor, targets: Tensor, *, n_negatives: int) -> Tensor:
        """See ``Objective``."""
        real = targets > 0
        items = model.item_embedding.weight
        return sampled_softmax_loss(
            model(inputs)[real], targets[real], items, n_negatives=n_negatives
        )
