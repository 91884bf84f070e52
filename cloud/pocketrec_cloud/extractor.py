# SPDX-License-Identifier: Apache-2.0
"""The extractor: a GRU over what a user did, whose last state is the user embedding.

Source: CHORD (a), an embedding from the last step of a feature extractor over item
embeddings, computed on the device; a GRU is our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Extractor"]


class Extractor(nn.Module):
    """From item embeddings, oldest first, to one embedding of the user.

    Args:
        embedding_dim: D, of items and users alike.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(embedding_dim, embedding_dim, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the state after each history's last event.

        Args:
            x: (B, T, D) float32, whatever lies behind the end.
            lengths: (B,) int64, events per history, from 1.

        Returns:
            (B, D) float32, within -1..1.
        """
        states: Tensor = self.gru(x)[0]
        return states[torch.arange(x.shape[0], device=x.device), lengths - 1]
