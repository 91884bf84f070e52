# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: a backbone goes on learning while it computes at one width.

The coded matrices keep float weights that the optimizer moves; what the model computes with
are those weights rounded to the grid of our quantizer, and the gradient passes through the
rounding as if it were not there.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pocketrec.errors import QuantizationError
from pocketrec_cloud.export import coded_names
from pocketrec_cloud.training import train_epoch
from pocketrec_cloud.training_run import EpochRecord, TrainingRun
from pocketrec_quantization.quantizer import STORED_WIDTHS, freeze_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.training import Progress, TrainingConfig

__all__ = ["train_quantized"]


def train_quantized(
    model: Backbone,
    sequences: Sequence[NDArray[np.int32]],
    config: TrainingConfig,
    *,
    bits: int,
    progress: Progress,
) -> Backbone:
    """Fine-tune a pretrained backbone with its coded matrices at one width.

    Everything trains. A channel's scale is the quantizer's, found anew from the float
    weights before every epoch and once after the last: its search is exhaustive and takes
    far longer than a step. In between, weights are rounded to the nearest code.

    Args:
        model: A trained backbone; unchanged.
        sequences: Training events per user, oldest first.
        config: How hard to train; ``max_epochs`` epochs, none of them evaluated.
        bits: 2, 4 or 8.
        progress: Told of every batch and epoch.

    Returns:
        A backbone in evaluation mode whose coded matrices lie on the grid: ``freeze_matrix``
        reads the same codes from them at ``bits``, and scales within float32 rounding.
        Equal arguments give equal weights.

    Raises:
        QuantizationError: ``bits`` is another width.

    Source:
        Bengio et al. 2013 for the straight-through gradient; the grid, the pace of its
        scales and not stopping the gradient of clipped weights are our choice.
    """
    if bits not in STORED_WIDTHS:
        raise QuantizationError(f"bits: expected one of {STORED_WIDTHS}, got {bits!r}")
    trained = copy.deepcopy(model)
    layers = [trained.get_submodule(name) for name in coded_names(trained)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _OnGrid(layer, bits))
    optimizer = torch.optim.AdamW(
        trained.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    run = TrainingRun(model=trained, optimizer=optimizer, sequences=list(sequences))
    for epoch in range(1, config.max_epochs + 1):
        started = time.monotonic()
        loss = train_epoch(run, config, progress)
        _refresh(layers)
        seconds = time.monotonic() - started
        run.history.append(EpochRecord(epoch=epoch, loss=loss, seconds=seconds))
        progress.epoch(run.history[-1])
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return trained.eval()


class _OnGrid(nn.Module):
    """Rounds a matrix to the codes of one width, with a scale per output channel."""

    scale: Tensor

    def __init__(self, layer: nn.Module, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.largest = 2 ** (bits - 1) - 1
        weights = layer.get_parameter("weight")
        self.register_buffer("scale", torch.zeros(weights.shape[0], 1, device=weights.device))
        self.find_scale(weights)

    def find_scale(self, weights: Tensor) -> None:
        """Take the scale that the quantizer finds for these weights, (C, N) float32."""
        scales = freeze_matrix(weights.detach().cpu().numpy()).scales[
            STORED_WIDTHS.index(self.bits)
        ]
        self.scale.copy_(torch.from_numpy(scales.copy())[:, None])

    def forward(self, weights: Tensor) -> Tensor:
        step = self.scale.clamp(min=torch.finfo(torch.float32).tiny)  # zero: a channel of zeros
        codes = torch.round(weights.detach() / step).clamp(-self.largest, self.largest)
        # The difference first: what comes out is then code times scale bit for bit.
        return codes * self.scale + (weights - weights.detach())


def _refresh(layers: Sequence[nn.Module]) -> None:
    """Find every scale anew from the float weights as they are now."""
    for layer in layers:
        for parametrization in layer.get_submodule("parametrizations.weight").children():
            if isinstance(parametrization, _OnGrid):
                parametrization.find_scale(layer.get_parameter("parametrizations.weight.original"))
