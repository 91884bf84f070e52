# SPDX-License-Identifier: Apache-2.0
"""Measures what a channel's coarse code costs: weight error times activation statistics.

One backward pass over a calibration sample gives, per coded matrix, the second moments
of its inputs and the mean squared loss gradient of each output channel. A channel whose
weights move by dw then changes its output by dw . x, and the loss, to second order with
the Fisher approximation, by about half of E[g^2] E[(dw . x)^2].
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pocketrec.errors import ConfigError
from pocketrec_cloud.batches import training_batches
from pocketrec_cloud.export import coded_names
from pocketrec_cloud.losses import softmax_loss
from pocketrec_quantization.quantizer import STORED_WIDTHS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_quantization.frozen import FrozenModel

__all__ = ["ActivationStatistics", "collect_statistics", "measure_sensitivity"]

TOKENS_PER_BATCH = 6_400
LOGIT_CELLS = 2**25  # predictions times V held at once: 128 MiB of float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActivationStatistics:
    """What flows through one coded matrix on the calibration sample.

    Attributes:
        input_moments: (N, N) float64, mean of x x^T over the vectors multiplied.
        gradient_power: (C,) float64, mean over events of the squared gradient of an
            event's loss with respect to each output channel, summed over the vectors
            that are multiplied for the event: one, or one for each place of a filter.
    """

    input_moments: NDArray[np.float64]
    gradient_power: NDArray[np.float64]


class _Probe:
    """Accumulates the statistics of one linear layer over batches."""

    def __init__(self, layer: nn.Linear) -> None:
        self.moments = torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64)
        self.power = torch.zeros(layer.out_features, dtype=torch.float64)
        self.n_events = self.n_vectors = 0
        self.real: Tensor | None = None  # (B, T) bool, which events are no padding
        self._hooks = [
            layer.register_forward_hook(self._forward),
            layer.register_full_backward_hook(self._backward),
        ]

    def _forward(self, _: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        x = inputs[0].detach()[self.real].double()
        self.n_events += x.shape[0]
        x = x.flatten(0, -2)
        self.n_vectors += x.shape[0]
        self.moments += x.T @ x

    def _backward(self, _: nn.Module, __: object, gradients: tuple[Tensor, ...]) -> None:
        self.power += gradients[0].detach()[self.real].double().flatten(0, -2).square().sum(0)

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def statistics(self) -> ActivationStatistics:
        return ActivationStatistics(
            input_moments=(self.moments / self.n_vectors).numpy(),
            gradient_power=(self.power / self.n_events).numpy(),
        )


def collect_statistics(
    model: Backbone,
    sequences: Sequence[NDArray[np.int32]],
    *,
    n_users: int = 512,
    seed: int = 0,
) -> dict[str, ActivationStatistics]:
    """Run a sample of training histories forward and backward once.

    Args:
        model: A backbone; put into evaluation mode, its gradients are cleared.
        sequences: Training events per user, oldest first. Never pass held-out events.
        n_users: Size of the sample.
        seed: Seed of the sample.

    Returns:
        Statistics by coded matrix.

    Raises:
        ConfigError: No sampled user has two events.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(sequences))[:n_users]
    sample = [sequences[i] for i in chosen if sequences[i].shape[0] >= 2]
    if not sample:
        raise ConfigError("expected calibration users with at least 2 events, found none")
    model.eval()
    with _probes(model) as probes:
        for inputs, targets in training_batches(
            sample, window=model.config.training_events, tokens_per_batch=TOKENS_PER_BATCH, rng=rng
        ):
            real = targets > 0
            for probe in probes.values():
                probe.real = real
            hidden = model(inputs)[real]
            torch.autograd.backward(hidden, _loss_gradient(model, hidden, targets[real]))
    model.zero_grad()
    return {name: probe.statistics() for name, probe in probes.items()}


def _loss_gradient(model: Backbone, hidden: Tensor, wanted: Tensor) -> Tensor:
    """Return the gradient of the summed losses with respect to the states: (P, D).

    Sum, not mean: a channel's gradient is then that of one event, not of a batch's share.
    Some states at a time, so that the logits over the catalogue stay within ``LOGIT_CELLS``.
    """
    items = model.item_embedding.weight.detach()
    rows = max(1, LOGIT_CELLS // model.config.n_items)
    gradients: list[Tensor] = []
    for start in range(0, hidden.shape[0], rows):
        piece = hidden[start : start + rows].detach().requires_grad_()
        loss = softmax_loss(piece, wanted[start : start + rows], items) * piece.shape[0]
        gradients += torch.autograd.grad(loss, piece)
    return torch.cat(gradients)


@contextmanager
def _probes(model: Backbone) -> Iterator[Mapping[str, _Probe]]:
    layers = {name: model.get_submodule(name) for name in coded_names(model)}
    probes = {name: _Probe(layer) for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    try:
        yield probes
    finally:
        for probe in probes.values():
            probe.close()


def measure_sensitivity(
    weights: Mapping[str, NDArray[np.float32]],
    frozen: FrozenModel,
    statistics: Mapping[str, ActivationStatistics],
) -> NDArray[np.float64]:
    """Estimate the loss each channel adds at 2, 4 and 8 bits.

    Args:
        weights: The float matrices by ``<layer>.weight``, (C_l, N_l) float32.
        frozen: The same matrices, quantized.
        statistics: From ``collect_statistics``.

    Returns:
        (C_total, 3) float64: half of E[g^2] E[(dw . x)^2] per channel and width.

    Source:
        Our choice; the product of weight error and activation statistics as in
        Dong et al. 2020 (HAWQ-V2), with the empirical Fisher diagonal for the Hessian.
    """
    rows = []
    for layer in frozen.layers:
        exact = weights[f"{layer.name}.weight"].astype(np.float64)
        seen = statistics[layer.name]
        per_width = []
        for width in STORED_WIDTHS:
            bits = np.full(layer.n_channels, width, dtype=np.uint8)
            error = frozen.matrices[layer.name].dequantize(bits) - exact
            output_error = ((error @ seen.input_moments) * error).sum(axis=1)
            per_width.append(0.5 * seen.gradient_power * output_error)
        rows.append(np.stack(per_width, axis=1))
    return np.concatenate(rows)
