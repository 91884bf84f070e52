# SPDX-License-Identifier: Apache-2.0
"""A backbone whose coded matrices are frozen, and read at another width by every user.

Weights do not differ between users, only widths do. So a batch needs three shared matrix
products, one per width, and a mix of their outputs per user and channel; there is never a
weight tensor per user:

    y_c = sum_b p_{c,b} (Q_b(W) x)_c + bias_c

Source: CHORD for frozen weights and a width per channel; the three shared products are our
choice.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.errors import QuantizationError
from pocketrec_cloud.export import coded_names
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.quantizer import STORED_WIDTHS, FrozenMatrix, freeze_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_quantization.layers import LayerTable
    from pocketrec_quantization.levels import LevelTable

__all__ = ["MixedBackbone", "MixedLinear", "freeze_backbone"]


class MixedLinear(nn.Module):
    """A linear layer that is read at 2, 4 and 8 bits at once.

    Args:
        linear: What it replaces; its bias goes on being trained.
        matrix: The frozen weights.

    Attributes:
        mix: (B, C, 3), how much of each width every user's channels have; None = float
            weights, for controls.
    """

    readings: Tensor
    weight: Tensor

    def __init__(self, linear: nn.Linear, matrix: FrozenMatrix) -> None:
        super().__init__()
        if linear.bias is None:
            raise QuantizationError("expected coded layers to have a bias, found one without")
        self.bias = linear.bias
        readings = [
            matrix.dequantize(np.full(matrix.n_channels, width, np.uint8))
            for width in STORED_WIDTHS
        ]
        self.register_buffer("readings", torch.from_numpy(np.concatenate(readings)))
        self.register_buffer("weight", linear.weight.detach().clone())
        self.mix: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, for each user with their own widths.

        Args:
            x: (B, ..., N) float32, one row of the batch per user.

        Returns:
            (B, ..., C) float32.
        """
        if self.mix is None:
            return functional.linear(x, self.weight, self.bias)
        n_channels = self.bias.shape[0]
        outputs = functional.linear(x, self.readings)  # (B, ..., 3 C)
        shape = (self.mix.shape[0], *([1] * (x.ndim - 2)), n_channels)
        mixed: Tensor = self.bias
        for number in range(len(STORED_WIDTHS)):
            own = outputs[..., number * n_channels : (number + 1) * n_channels]
            mixed = mixed + own * self.mix[..., number].reshape(shape)
        return mixed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MixedBackbone:
    """A copy of a backbone, mixed.

    Attributes:
        model: The copy; its coded layers are ``MixedLinear``.
        linears: They, by name, in the order of plans.
        layers: Their shapes.
    """

    model: Backbone
    linears: Mapping[str, MixedLinear]
    layers: LayerTable

    @classmethod
    def of(cls, model: Backbone) -> MixedBackbone:
        """Freeze the coded matrices of a copy of a backbone.

        Args:
            model: Trained, or just initialised; unchanged.
        """
        mixed = copy.deepcopy(model)
        matrices = freeze_backbone(mixed)
        linears = {}
        for name, matrix in matrices.items():
            parent, _, leaf = name.rpartition(".")
            linears[name] = MixedLinear(_linear(mixed, name), matrix)
            setattr(mixed.get_submodule(parent), leaf, linears[name])
        layers = tuple(
            LayerShape(name, matrix.n_channels, matrix.n_elements)
            for name, matrix in matrices.items()
        )
        return cls(model=mixed, linears=linears, layers=layers)

    def use_tiers(self, tiers: Tensor | None, levels: LevelTable) -> None:
        """Set the plans of the next batch.

        Args:
            tiers: (B, C_total, 3), how much of tiers 1 to 3 each channel has; None =
                float weights.
            levels: What the tiers mean in bits; a pruned tier adds nothing.
        """
        if tiers is None:
            for linear in self.linears.values():
                linear.mix = None
            return
        meaning = [[float(bits == width) for width in STORED_WIDTHS] for bits in levels.bits[1:]]
        mix = tiers @ torch.tensor(meaning, device=tiers.device, dtype=tiers.dtype)
        sizes = [layer.n_channels for layer in self.layers]
        for linear, own in zip(self.linears.values(), torch.split(mix, sizes, dim=1), strict=True):
            linear.mix = own

    def plain(self) -> Backbone:
        """Return a copy with ordinary linear layers again, the float weights inside.

        The plans of the last batch are forgotten.
        """
        for mixed in self.linears.values():
            mixed.mix = None  # with gradients, it could not be copied
        model = copy.deepcopy(self.model)
        for name, mixed in self.linears.items():
            n_channels, n_elements = mixed.weight.shape
            linear = nn.Linear(n_elements, n_channels)
            with torch.no_grad():
                linear.weight.copy_(mixed.weight)
                linear.bias.copy_(mixed.bias)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, linear.to(mixed.weight.device))
        return model


def freeze_backbone(model: Backbone) -> dict[str, FrozenMatrix]:
    """Quantize the coded matrices of a backbone once, for every width.

    Args:
        model: The backbone; unchanged.

    Returns:
        Stores by name, in the order of plans.
    """
    return {
        name: freeze_matrix(_linear(model, name).weight.detach().cpu().numpy())
        for name in coded_names(model)
    }


def _linear(model: nn.Module, name: str) -> nn.Linear:
    found = model.get_submodule(name)
    if not isinstance(found, nn.Linear):
        raise QuantizationError(f"{name}: expected a linear layer, found {type(found).__name__}")
    return found
