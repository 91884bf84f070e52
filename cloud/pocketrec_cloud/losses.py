# SPDX-License-Identifier: Apache-2.0
"""Losses over the catalogue: softmax, whole or sampled."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["sampled_softmax_loss", "softmax_loss"]


def softmax_loss(hidden: Tensor, targets: Tensor, item_embedding: Tensor) -> Tensor:
    """Return the mean cross-entropy over the whole catalogue.

    Args:
        hidden: (P, D) float32, states that predict.
        targets: (P,) int64, item indices from 1.
        item_embedding: (V + 1, D) float32, row 0 is padding.

    Returns:
        () float32.
    """
    return functional.cross_entropy(hidden @ item_embedding[1:].T, targets - 1)


def sampled_softmax_loss(
    hidden: Tensor, targets: Tensor, item_embedding: Tensor, *, n_negatives: int
) -> Tensor:
    """Return the mean cross-entropy against negatives that the batch shares.

    Negatives are uniform over the catalogue, a target among them does not count
    against itself, and their logits are shifted by log(V / n) so that the partition
    function estimates that of the whole catalogue.

    Args:
        hidden: (P, D) float32, states that predict.
        targets: (P,) int64, item indices from 1.
        item_embedding: (V + 1, D) float32, row 0 is padding.
        n_negatives: How many; with V or more the whole catalogue is used instead.

    Returns:
        () float32.

    Source:
        Jean et al. 2015 (sampled softmax with an importance correction).
    """
    n_items = item_embedding.shape[0] - 1
    if n_negatives >= n_items:
        return softmax_loss(hidden, targets, item_embedding)
    negatives = torch.randint(1, n_items + 1, (n_negatives,), device=hidden.device)
    positive = (hidden * item_embedding[targets]).sum(-1, keepdim=True)
    negative = hidden @ item_embedding[negatives].T + math.log(n_items / n_negatives)
    negative = negative.masked_fill(targets[:, None] == negatives, float("-inf"))
    return (torch.logsumexp(torch.cat([positive, negative], dim=1), dim=1) - positive[:, 0]).mean()
