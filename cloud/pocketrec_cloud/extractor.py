# SPDX-License-Identifier: Apache-2.0
"""The feature extractor in torch: what is trained, and how a bundle gets it.

``pocketrec_quantization.extractor`` has the formulas and the reference.

Source: CHORD (a); a GRU over item embeddings is our choice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pocketrec_quantization import extractor as reference

__all__ = ["Extractor"]


class Extractor(nn.Module):
    """From histories to user embeddings: one GRU layer, its state after the last event.

    Args:
        embedding_dim: D, of the backbone's item embeddings and of user embeddings.
        input_scale: Factor on item embeddings as inputs.

    Attributes:
        input_scale: As given.
    """

    def __init__(self, embedding_dim: int, input_scale: float = 1.0) -> None:
        super().__init__()
        self.embedding_dim, self.input_scale = embedding_dim, input_scale
        self.gru = nn.GRU(embedding_dim, embedding_dim, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the state after each history's last event.

        Padding comes after it, so it needs no mask.

        Args:
            x: (B, T, D) float32, rows of the backbone's item embedding table, oldest
                event first; what lies at and after a history's length does not matter.
            lengths: (B,) int64, events per history, 1 to T.

        Returns:
            (B, D) float32.
        """
        states: Tensor = self.gru(x * self.input_scale)[0]
        rows = torch.arange(x.shape[0], device=x.device)
        return states[rows, lengths - 1]

    def device_form(self, backbone_scale: float) -> reference.Extractor:
        """Return the extractor that gives, for a bundle's item rows, what this one gives.

        A bundle's rows are the backbone's embeddings times the backbone's input scale
        (``export.device_form``), so their inverse, and this module's own scale, move into
        the weights of the inputs.

        Args:
            backbone_scale: ``input_scale`` of the trained backbone.

        Raises:
            ConfigError: A weight is not finite.
        """
        trained = reference.Extractor(
            weight_ih=_array(self.gru.get_parameter("weight_ih_l0")),
            weight_hh=_array(self.gru.get_parameter("weight_hh_l0")),
            bias_ih=_array(self.gru.get_parameter("bias_ih_l0")),
            bias_hh=_array(self.gru.get_parameter("bias_hh_l0")),
        )
        return trained.for_inputs_times(backbone_scale / self.input_scale)


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    # A copy: a trained module may go on changing.
    return np.array(tensor.detach().cpu().numpy(), np.float32)
