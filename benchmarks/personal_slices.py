# SPDX-License-Identifier: Apache-2.0
"""A SASRec with a wide feed-forward pool, of which every user switches on a slice.

A channel that is off computes nothing: it leaves ``relu(bias)``, a constant that a device
folds into the next bias, so neither its row nor the column that reads it need be resident.
That is what a tier of 0 bits means in a plan.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec_cloud.backbones.sasrec import Block, SASRec
from pocketrec_quantization.quantizer import STORED_WIDTHS, freeze_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.caser import Caser

__all__ = [
    "HALF_LIVES",
    "Router",
    "ShiftedCaser",
    "SlicedSASRec",
    "decayed_means",
    "quantized",
    "shortened",
    "take_slice",
    "ternary",
]

HALF_LIVES = (8.0, 32.0, 128.0)
"""Of the means that a plan is made from, in events."""

_MOMENTUM = 0.05
_EPSILON = 1e-5


class SlicedSASRec(nn.Module):
    """A copy of a SASRec whose feed-forward channels can be switched off user by user.

    Args:
        model: The backbone; unchanged.
    """

    def __init__(self, model: SASRec) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model)
        self.slices: Tensor | None = None
        self.offsets: Tensor | None = None
        for number, block in enumerate(self.blocks):
            block.ffn2.register_forward_pre_hook(self._gate(number, block))
            block.ffn2.register_forward_hook(self._shift(number))

    @property
    def blocks(self) -> list[Block]:
        """Its transformer blocks."""
        return [block for block in self.backbone.blocks if isinstance(block, Block)]

    @property
    def n_blocks(self) -> int:
        """Transformer blocks."""
        return len(self.backbone.blocks)

    @property
    def width(self) -> int:
        """Channels of one pool."""
        return self.backbone.config.embedding_dim * self.backbone.config.ffn_multiplier

    def use(self, slices: Tensor | None, offsets: Tensor | None = None) -> None:
        """Set what the next batch computes with.

        Args:
            slices: (B, n_blocks, W) float32, 1 where a channel is on; None = all are.
            offsets: (B, n_blocks, D) float32, added to the output of each block's
                feed-forward layer: the rival of a slice. With 2 D numbers, the two vectors of
                a rank-1 adapter of that layer. None = nothing.
        """
        self.slices, self.offsets = slices, offsets

    def importance(self) -> Tensor:
        """Return how much a channel can move the output, from weights alone: (n_blocks, W)."""
        with torch.no_grad():
            return torch.stack(
                [
                    block.ffn1.weight.norm(dim=1) * block.ffn2.weight.norm(dim=0)
                    for block in self.blocks
                ]
            )

    def _gate(self, number: int, block: Block) -> Any:
        def gate(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
            if self.slices is None:
                return None
            own = self.slices[:, number, None, :]
            return (inputs[0] * own + functional.relu(block.ffn1.bias) * (1 - own),)

        return gate

    def _shift(self, number: int) -> Any:
        def shift(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
            return None if self.offsets is None else _shifted(output, self.offsets[:, number])

        return shift


class ShiftedCaser(nn.Module):
    """A copy of a Caser to whose states every user adds a vector of their own.

    Where its authors add what they learned of a user, who is then no stranger. There is no
    pool.

    Args:
        model: The backbone; unchanged.
    """

    n_blocks = 1

    def __init__(self, model: Caser) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(model)
        self.slices: Tensor | None = None
        self.offsets: Tensor | None = None
        self.backbone.fc.register_forward_hook(self._shift)

    @property
    def width(self) -> int:
        """States have as many channels, none of which can be switched off."""
        return self.backbone.config.embedding_dim

    def use(self, slices: Tensor | None, offsets: Tensor | None = None) -> None:
        """See ``SlicedSASRec.use``; there are no slices."""
        self.slices, self.offsets = slices, offsets

    def importance(self) -> Tensor:
        """Return the same for all channels, (1, W)."""
        return torch.ones(1, self.width)

    def _shift(self, _module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        return None if self.offsets is None else _shifted(output, self.offsets[:, 0])


def _shifted(output: Tensor, own: Tensor) -> Tensor:
    """Add a user's vector, or what a user's rank-1 adapter says, to (B, T, D)."""
    if own.shape[-1] == output.shape[-1]:
        return output + own[:, None]
    left, right = own[:, None].chunk(2, dim=-1)
    return output + left * (output * right).sum(-1, keepdim=True)


class Router(nn.Module):
    """From what is known of a user to one score per channel, or to one vector per block.

    Args:
        n_inputs: Numbers that describe a user.
        shape: (n_blocks, W) of the scores, or (n_blocks, D) of the vectors.
        hidden: Width of its one hidden layer.
        dropout: On inputs and hidden units.
        is_standardised: Whether outputs are deviations from the population, in its standard
            deviations.
        uses_batch: Whether the batch is the population while training, with gradients.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        n_inputs: int,
        shape: tuple[int, int],
        *,
        hidden: int,
        dropout: float,
        is_standardised: bool,
        uses_batch: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.is_standardised = shape, is_standardised
        self.uses_batch = uses_batch
        self.inner = nn.Sequential(
            nn.LayerNorm(n_inputs),
            nn.Dropout(dropout),
            nn.Linear(n_inputs, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.outer = nn.Linear(hidden, shape[0] * shape[1])
        self.register_buffer("mean", torch.zeros(shape[0] * shape[1]))
        self.register_buffer("variance", torch.ones(shape[0] * shape[1]))
        if not is_standardised:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return (B, *shape) of (B, n_inputs)."""
        raw: Tensor = self.outer(self.inner(z))
        if not self.is_standardised:
            return raw.reshape(-1, *self.shape)
        mean, variance = self.mean, self.variance
        if self.training and raw.shape[0] > 1:
            own_variance, own_mean = torch.var_mean(raw, dim=0, correction=0)
            with torch.no_grad():
                self.mean.lerp_(own_mean, _MOMENTUM)
                self.variance.lerp_(own_variance, _MOMENTUM)
            if self.uses_batch:
                mean, variance = own_mean, own_variance
        deviation = (raw - mean) * (variance + _EPSILON).rsqrt()
        return deviation.reshape(-1, *self.shape)

    @torch.no_grad()
    def fit_population(self, z: Tensor) -> None:
        """Take in what is typical of all users, (U, n_inputs)."""
        raw = self.outer(self.inner(z))
        variance, mean = torch.var_mean(raw, dim=0, correction=0)
        self.mean.copy_(mean)
        self.variance.copy_(variance)


def shortened(model: SASRec, window: int) -> SASRec:
    """Return a copy of a model that reads fewer events: its distances are learned one by one."""
    state = {
        name: value[:, :window] if name.endswith("relative_bias") else value
        for name, value in model.state_dict().items()
    }
    short = SASRec(replace(model.config, window=window))
    short.load_state_dict(state)
    return short.eval()


def decayed_means(rows: Tensor, past: Tensor, lengths: Tensor) -> Tensor:
    """Describe a user by means of their events, at several paces of forgetting.

    Args:
        rows: (V + 1, D) float32, what each item is described by.
        past: (B, T) int64, oldest first, 0 after the end.
        lengths: (B,) int64, events, at least 1.

    Returns:
        (B, len(HALF_LIVES) * D) float32.
    """
    ages = lengths[:, None] - 1 - torch.arange(past.shape[1])
    paces = torch.tensor(HALF_LIVES)
    weights = torch.exp2(-ages[:, None, :].clamp(min=0) / paces[None, :, None])
    weights = weights * (ages >= 0)[:, None, :]
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights @ rows[past]).flatten(1)


def take_slice(scores: Tensor, n_kept: int, temperature: float) -> Tensor:
    """Switch on the channels with the highest scores: hard, with soft gradients.

    Args:
        scores: (..., W) float32.
        n_kept: How many; all of them are then always on.
        temperature: Scores that lie so far from the border hardly learn.

    Returns:
        The same shape, 0 or 1.
    """
    if n_kept >= scores.shape[-1]:
        return torch.ones_like(scores)
    best = scores.detach().topk(n_kept + 1, dim=-1)
    border = best.values[..., -2:].mean(-1, keepdim=True)
    hard = torch.zeros_like(scores).scatter_(-1, best.indices[..., :n_kept], 1.0)
    soft = torch.sigmoid((scores - border) / temperature)
    return hard + (soft - soft.detach())


def ternary(raw: Tensor) -> Tensor:
    """Return codes -1, 0 and 1: hard, with soft gradients within -1..1; the same shape."""
    soft = raw.clamp(-1, 1)
    return torch.round(soft.detach()) + (soft - soft.detach())


def quantized(weights: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return what a device reads of a matrix at one width, (C, N)."""
    frozen = freeze_matrix(weights)
    if bits not in STORED_WIDTHS:
        return weights
    return frozen.dequantize(np.full(frozen.n_channels, bits, np.uint8))
