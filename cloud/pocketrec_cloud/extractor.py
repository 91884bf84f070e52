# SPDX-License-Identifier: Apache-2.0
"""The extractor: a GRU over what a user did, whose last state is the user embedding.

``pocketrec_quantization.extractor`` has the formulas, and evaluates what this module trains.

Source: CHORD (a), an embedding from the last step of a feature extractor over item
embeddings, computed on the device; a GRU is our choice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pocketrec_quantization import extractor as reference

__all__ = ["Extractor"]


class Extractor(nn.Module):
    """From item embeddings, oldest first, to one embedding of the user.

    It reads what the backbone's first block reads: item embeddings times the backbone's
    ``input_scale``. Those are a bundle's item rows, so an export changes no weight.

    Args:
        embedding_dim: D, of items and users alike.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(embedding_dim, embedding_dim, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the state after each history's last event.

        Args:
            x: (B, T, D) float32, scaled as above, whatever lies behind the end.
            lengths: (B,) int64, events per history, from 1.

        Returns:
            (B, D) float32, within -1..1.
        """
        states: Tensor = self.gru(x)[0]
        return states[torch.arange(x.shape[0], device=x.device), lengths - 1]

    def reference(self) -> reference.Extractor:
        """Return what devices evaluate: a copy of the weights, without torch.

        Raises:
            ConfigError: A weight is not finite.
        """
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        arrays = {name: _array(self.gru.get_parameter(f"{name}_l0")) for name in names}
        return reference.Extractor.from_arrays(arrays)


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    # A copy: a trained module may go on changing.
    return np.array(tensor.detach().cpu().numpy(), np.float32)
