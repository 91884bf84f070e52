# SPDX-License-Identifier: Apache-2.0
"""Teaches a model with a compressed table to rank as the model it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from pocketrec_cloud.compression.searching import SearchingEmbedding

if TYPE_CHECKING:
    from pocketrec_cloud.backbones.base import Backbone

__all__ = ["Distillation"]

_BATCHES_PER_SEARCH = 10


class Distillation:
    """Scores of the next event and of sampled items, as close as can be to a teacher's.

    Without dropout on either side: the student is to compute the same, not to learn anew.

    Args:
        teacher: The model before; unchanged.

    Source:
        Hinton et al. 2015 (distillation), at temperature 1. Sampling items is our choice.
    """

    has_dropout = False

    def __init__(self, teacher: Backbone) -> None:
        self._teacher = teacher.eval()
        self._n_batches = 0

    def loss(self, model: Backbone, inputs: Tensor, targets: Tensor, *, n_negatives: int) -> Tensor:
        """See ``Objective``: the mean divergence from what the teacher expects.

        A table that searches does so here, every few batches.
        """
        table = model.item_embedding
        self._n_batches += 1
        if isinstance(table, SearchingEmbedding) and self._n_batches % _BATCHES_PER_SEARCH == 0:
            table.search()
        real = targets > 0
        wanted = targets[real]
        n_items = model.config.n_items
        if n_negatives >= n_items:
            others = torch.arange(1, n_items + 1, device=wanted.device)
        else:
            others = torch.randint(1, n_items + 1, (n_negatives,), device=wanted.device)
        with torch.no_grad():
            expected = _log_shares(self._teacher, inputs, real, wanted, others)
        found = _log_shares(model, inputs, real, wanted, others)
        return functional.kl_div(found, expected, reduction="batchmean", log_target=True)


def _log_shares(
    model: Backbone, inputs: Tensor, real: Tensor, wanted: Tensor, others: Tensor
) -> Tensor:
    """Return log-probabilities of the wanted item and of all others, (P, 1 + n)."""
    states: Tensor = model(inputs)[real]
    embedded: Tensor = model.item_embedding(torch.cat([wanted, others]))
    own, rest = embedded[: wanted.shape[0]], embedded[wanted.shape[0] :]
    apart = torch.finfo(states.dtype).min / 2  # finite: a share of exactly 0 has no divergence
    against = (states @ rest.T).masked_fill(wanted[:, None] == others, apart)
    return torch.cat([(states * own).sum(-1, keepdim=True), against], dim=1).log_softmax(dim=1)
