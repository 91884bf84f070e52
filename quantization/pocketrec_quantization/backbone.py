# SPDX-License-Identifier: Apache-2.0
"""The architecture as data: which tensors a backbone has, and which of them are coded.

A coded matrix W_l is (C_l, N_l) = (outputs, inputs) and stored at 8 bits; every other
tensor stays float32. The order of :func:`coded_layers` is the order of a plan's codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import check_integer
from pocketrec_quantization.layers import LayerShape, LayerTable
from pocketrec_quantization.limits import MAX_LAYER_SIDE

__all__ = ["BACKBONE_KINDS", "BackboneConfig", "coded_layers", "dense_shapes"]

BACKBONE_KINDS = ("sasrec",)
"""Architectures this release knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """The architecture that a bundle's weights belong to.

    Args:
        kind: ``sasrec``.
        embedding_dim: D.
        n_blocks: Transformer blocks.
        n_heads: H; divides D.
        window: L, how many events attention reaches back, the current one counted.
        ffn_multiplier: FFN width as a multiple of D.

    Raises:
        ConfigError: A field is outside its range, or H does not divide D.
    """

    kind: str
    embedding_dim: int
    n_blocks: int
    n_heads: int
    window: int
    ffn_multiplier: int

    def __post_init__(self) -> None:
        if self.kind not in BACKBONE_KINDS:
            raise ConfigError(f"kind: expected one of {BACKBONE_KINDS}, got {self.kind!r:.80}")
        for name in ("embedding_dim", "n_blocks", "n_heads", "window", "ffn_multiplier"):
            check_integer(getattr(self, name), field=name, minimum=1, maximum=MAX_LAYER_SIDE)
        if self.embedding_dim % self.n_heads:
            raise ConfigError(
                f"n_heads: expected a divisor of embedding_dim {self.embedding_dim}, got "
                f"{self.n_heads}"
            )

    @property
    def head_dim(self) -> int:
        """D / H, dimensions of one attention head."""
        return self.embedding_dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward layer."""
        return self.embedding_dim * self.ffn_multiplier


def coded_layers(config: BackboneConfig) -> LayerTable:
    """Return the coded matrices of a backbone, in the order of its plans.

    Raises:
        ConfigError: A matrix is larger than a layer may be.
    """
    dim, wide = config.embedding_dim, config.ffn_dim
    layers: list[LayerShape] = []
    for block in range(config.n_blocks):
        layers += [LayerShape(f"blocks.{block}.{name}", dim, dim) for name in "qkvo"]
        layers.append(LayerShape(f"blocks.{block}.ffn1", wide, dim))
        layers.append(LayerShape(f"blocks.{block}.ffn2", dim, wide))
    return tuple(layers)


def dense_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a backbone that is not coded."""
    dim = config.embedding_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(config.n_blocks):
        prefix = f"blocks.{block}"
        for norm in ("attn_norm", "ffn_norm"):
            shapes[f"{prefix}.{norm}.weight"] = (dim,)
            shapes[f"{prefix}.{norm}.bias"] = (dim,)
        for name in ("q", "k", "v", "o", "ffn2"):
            shapes[f"{prefix}.{name}.bias"] = (dim,)
        shapes[f"{prefix}.ffn1.bias"] = (config.ffn_dim,)
        shapes[f"{prefix}.relative_bias"] = (config.n_heads, config.window)
    shapes["final_norm.weight"] = (dim,)
    shapes["final_norm.bias"] = (dim,)
    return shapes
