# SPDX-License-Identifier: Apache-2.0
"""SASRec: causal self-attention over a user's events, made to run one event at a time.

Two departures from the original keep incremental inference exact: positions enter
only as a learned bias per head and *distance*, so a cached key never changes when
the window moves on, and normalisation comes before each sublayer. The last layer's
hidden state ranks items by inner product with their embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.errors import ConfigError
from pocketrec_cloud.backbones.base import Backbone, initialise
from pocketrec_quantization.backbone import BackboneConfig

__all__ = ["Block", "SASRec", "SASRecConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SASRecConfig:
    """The shape of a SASRec.

    Attributes:
        n_items: V, padding not counted.
        embedding_dim: D.
        n_blocks: Transformer blocks.
        n_heads: H, a divisor of D.
        window: L, how many events a query sees, itself included.
        ffn_multiplier: Width of the feed-forward layer as a multiple of D.
        dropout: Probability, on embeddings and both sublayers' outputs.
    """

    kind: ClassVar[str] = "sasrec"

    n_items: int
    embedding_dim: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    window: int = 200
    ffn_multiplier: int = 1
    dropout: float = 0.2

    def __post_init__(self) -> None:
        counts = (
            self.n_items,
            self.embedding_dim,
            self.n_blocks,
            self.n_heads,
            self.window,
            self.ffn_multiplier,
        )
        if min(counts) < 1:
            raise ConfigError(f"expected every size to be at least 1, found {self}")
        if self.embedding_dim % self.n_heads:
            raise ConfigError(
                f"expected n_heads to divide embedding_dim, found {self.n_heads} heads "
                f"for {self.embedding_dim} dimensions"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"expected dropout within [0, 1), found {self.dropout}")

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.embedding_dim // self.n_heads

    @property
    def training_events(self) -> int:
        """See ``BackboneShape``: L, since a state sees the whole stretch."""
        return self.window

    def architecture(self) -> BackboneConfig:
        """See ``BackboneShape``."""
        return BackboneConfig(
            kind=self.kind,
            embedding_dim=self.embedding_dim,
            n_blocks=self.n_blocks,
            n_heads=self.n_heads,
            window=self.window,
            ffn_multiplier=self.ffn_multiplier,
        )


def _recency_bias(n_heads: int, window: int) -> Tensor:
    """Start every head with a linear fade, steep (1/4 an event) to slow (1/64): (H, L).

    From zeros, attention averages the whole history and the model spends its first
    epochs on popularity alone.

    Source:
        The slopes are in the manner of Press et al. 2022 (ALiBi); learning on from
        there is our choice.
    """
    slopes = torch.logspace(-2, -6, n_heads, base=2.0)
    return -slopes[:, None] * torch.arange(window)


class Block(nn.Module):
    """One pre-norm block: attention with a distance bias, then a ReLU feed-forward."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        dim, width = config.embedding_dim, config.embedding_dim * config.ffn_multiplier
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.attn_norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.relative_bias = nn.Parameter(_recency_bias(config.n_heads, config.window))
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn1 = nn.Linear(dim, width)
        self.ffn2 = nn.Linear(width, dim)
        self.dropout = nn.Dropout(config.dropout)

    def heads(self, x: Tensor) -> Tensor:
        """Split channels into heads: (..., T, D) -> (..., H, T, D / H)."""
        return torch.unflatten(x, -1, (self.n_heads, self.head_dim)).transpose(-3, -2)

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """Average values and merge heads: (..., H, T, S), (..., H, S, dh) -> (..., T, D)."""
        mixed: Tensor = self.o((weights @ values).transpose(-3, -2).flatten(-2))
        return mixed

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the second sublayer's contribution, (..., D)."""
        out: Tensor = self.ffn2(functional.relu(self.ffn1(self.ffn_norm(x))))
        return out

    def forward(self, x: Tensor, distance: Tensor, future: Tensor) -> Tensor:
        """Let every event attend to itself and to those before it.

        Args:
            x: (B, T, D) float32.
            distance: (T, T) int64, query position minus key position, 0 in the future.
            future: (T, T) bool, True where the key must not be seen.

        Returns:
            (B, T, D) float32.
        """
        a = self.attn_norm(x)
        bias = self.relative_bias[:, distance].masked_fill(future, float("-inf"))
        query = self.heads(self.q(a)) * self.head_dim**-0.5
        logits = query @ self.heads(self.k(a)).transpose(-2, -1) + bias
        x = x + self.dropout(self.mix(logits.softmax(-1), self.heads(self.v(a))))
        out: Tensor = x + self.dropout(self.feed_forward(x))
        return out


class SASRec(Backbone):
    """Self-attentive sequential recommendation with relative positions.

    Source:
        Kang and McAuley 2018 (SASRec), sections III.A to III.D. Deviates: pre-norm,
        learned bias by distance instead of absolute positions.

    Args:
        config: The shape.
    """

    config: SASRecConfig

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(config.n_items + 1, config.embedding_dim, padding_idx=0)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.final_norm = nn.LayerNorm(config.embedding_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.input_scale = config.embedding_dim**0.5
        initialise(self)

    def forward(self, items: Tensor) -> Tensor:
        """Encode histories that start at position 0 and are padded at their end.

        Padding lies in every real event's future, so it needs no mask.

        Args:
            items: (B, T) int64 item indices with T <= L, 0 after the end.

        Returns:
            (B, T, D) float32, the state after each event.
        """
        steps = torch.arange(items.shape[1], device=items.device)
        offset = steps[:, None] - steps[None, :]
        x = self.dropout(self.item_embedding(items) * self.input_scale)
        for block in self.blocks:
            x = block(x, offset.clamp(min=0), offset < 0)
        states: Tensor = self.final_norm(x)
        return states

    def fold_input_scale(self) -> None:
        """See ``Backbone.fold_input_scale``: the final norm takes the inverse."""
        self.multiply_items_(self.input_scale)
        with torch.no_grad():
            self.final_norm.weight.div_(self.input_scale)
            self.final_norm.bias.div_(self.input_scale)
        self.input_scale = 1.0
