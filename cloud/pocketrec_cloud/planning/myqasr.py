# SPDX-License-Identifier: Apache-2.0
"""Personal plans from activations alone: the baseline that a hypernetwork must beat.

A user's history passes once through the float backbone. A matrix whose output is strong for
this user is taken to be sensitive, and the byte budget goes where the expected error of the
output falls most.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pocketrec.errors import ConfigError
from pocketrec_cloud.batches import bucket_by_length, pad
from pocketrec_cloud.export import coded_names
from pocketrec_quantization.budget import allocate
from pocketrec_quantization.layers import LayerTable, total_channels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone

__all__ = ["Granularity", "MyQasrPlanner"]

TOKENS_PER_BATCH = 50_000
RELATIVE_ERRORS = (0.33, 0.064, 0.0037)
"""Median relative weight error at 2, 4 and 8 bits; see ``quantizer``."""


class Granularity(StrEnum):
    """What shares one sensitivity."""

    LAYER = "layer"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MyQasrPlanner:
    """Mixed precision per user from the activations of a forward pass; nothing is learned.

    Args:
        model: The frozen backbone, in evaluation mode.
        layers: Its coded matrices, in plan order.
        granularity: ``layer`` as in the paper, or ``channel``.

    Raises:
        ConfigError: ``layers`` are not those of the model.

    Source:
        Fish et al. 2023 (myQASR, Interspeech), of which we had the abstract: no labels, no
        training, sensitivity of layers from full-precision activation values of a user's
        own samples, any memory budget. Our choice: the statistic (mean square of a
        channel's output, bias apart), its product with the squared weight error of a
        width, sensitivities per channel, and spending the budget by ``allocate``.
    """

    model: Backbone
    layers: LayerTable
    granularity: Granularity = Granularity.LAYER

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if names != coded_names(self.model):
            raise ConfigError(
                f"layers: expected {coded_names(self.model)} as in the model, got {names}"
            )

    @property
    def name(self) -> str:
        """``myqasr-layer`` or ``myqasr-channel``."""
        return f"myqasr-{self.granularity}"

    def plan_for(
        self, histories: Sequence[NDArray[np.int32]], budget_bytes: int
    ) -> NDArray[np.uint8]:
        """Make plans that stay within a budget.

        Args:
            histories: B arrays of item indices, oldest first, with events before the target
                only. The last L are seen; where there are none, all channels count alike.
            budget_bytes: Upper bound of each plan's coded bytes, scales included.

        Returns:
            (B, C_total) uint8, codes 1..3 of the default level table.

        Raises:
            InfeasibleBudgetError: Not even 2 bits everywhere fit.
        """
        saved = -np.diff(np.square(RELATIVE_ERRORS))
        plans = np.empty((len(histories), total_channels(self.layers)), np.uint8)
        for row, power in enumerate(self.output_power(histories)):
            plans[row] = allocate(power[:, None] * saved, self.layers, budget_bytes)
        return plans

    def output_power(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float64]:
        """Return how strong every output is: (B, C_total) float64, ones without a history.

        Args:
            histories: As for :meth:`plan_for`.
        """
        power = np.ones((len(histories), total_channels(self.layers)))
        lengths = np.array([row.shape[0] for row in histories], np.int64)
        known = np.flatnonzero(lengths)
        recent = [histories[i][-self.model.config.window :] for i in known.tolist()]
        seen = np.array([row.shape[0] for row in recent], np.int64)
        for rows in bucket_by_length(seen, TOKENS_PER_BATCH):
            power[known[rows]] = self._batch_power([recent[i] for i in rows])
        return power

    def _batch_power(self, histories: list[NDArray[np.int32]]) -> NDArray[np.float64]:
        """Run one batch of histories of at least one event: (B, C_total) float64."""
        items = pad(histories)
        with torch.inference_mode(), _probes(self.model, items > 0) as probes:
            self.model(items)
        by_layer = [probes[layer.name].power() for layer in self.layers]
        if self.granularity is Granularity.LAYER:
            by_layer = [power.mean(1, keepdim=True).expand_as(power) for power in by_layer]
        return torch.cat(by_layer, dim=1).numpy()


class _Probe:
    """Averages the squared outputs of one matrix over the real events of every history."""

    def __init__(self, layer: nn.Linear, real: Tensor) -> None:
        self._bias: Tensor | None = layer.bias
        self._share = (real / real.sum(1, keepdim=True))[..., None]  # (B, T, 1)
        self._means: list[Tensor] = []
        self.hook = layer.register_forward_hook(self._forward)

    def _forward(self, _: nn.Module, __: object, output: Tensor) -> None:
        product = output if self._bias is None else output - self._bias
        # A convolution has several outputs per event: (B, T, P, C) -> (B, T, C)
        squares = product.double().square().reshape(*output.shape[:2], -1, output.shape[-1])
        self._means.append((squares.mean(2) * self._share).sum(1))

    def power(self) -> Tensor:
        """Return the mean square per history and channel: (B, C) float64."""
        return torch.stack(self._means).mean(0)


@contextmanager
def _probes(model: Backbone, real: Tensor) -> Iterator[Mapping[str, _Probe]]:
    layers = {name: model.get_submodule(name) for name in coded_names(model)}
    probes = {
        name: _Probe(layer, real) for name, layer in layers.items() if isinstance(layer, nn.Linear)
    }
    try:
        yield probes
    finally:
        for probe in probes.values():
            probe.hook.remove()
