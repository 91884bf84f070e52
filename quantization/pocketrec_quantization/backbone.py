# SPDX-License-Identifier: Apache-2.0
"""The architecture as data: which tensors a backbone has, and which of them are coded.

A coded matrix W_l is (C_l, N_l) = (outputs, inputs) and stored at 8 bits; every other
tensor stays float32. The order of :func:`coded_layers` is the order of a plan's codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import check_integer
from pocketrec_quantization.layers import LayerShape, LayerTable
from pocketrec_quantization.limits import MAX_LAYER_SIDE

__all__ = ["BACKBONE_KINDS", "BackboneConfig", "coded_layers", "dense_shapes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """The architecture that a bundle's weights belong to.

    Args:
        kind: One of ``BACKBONE_KINDS``.
        embedding_dim: D.
        window: L, how many events a state is made from, the current one counted.
        n_blocks: ``sasrec``: transformer blocks.
        n_heads: ``sasrec``: H; divides D.
        ffn_multiplier: ``sasrec``: FFN width as a multiple of D.
        max_height: ``caser``: horizontal filters look at 1 to this many events; at most L.
        n_horizontal: ``caser``: horizontal filters of each height.
        n_vertical: ``caser``: vertical filters.

    Raises:
        ConfigError: A field of its kind is outside its range, or one of another kind is
            not 0.
    """

    kind: str
    embedding_dim: int
    window: int
    n_blocks: int = 0
    n_heads: int = 0
    ffn_multiplier: int = 0
    max_height: int = 0
    n_horizontal: int = 0
    n_vertical: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(f"kind: expected one of {BACKBONE_KINDS}, got {self.kind!r:.80}")
        own = _KINDS[self.kind].fields
        for name in _SIZES:
            is_own = name in own or name in _SHARED_SIZES
            low, high = (1, MAX_LAYER_SIDE) if is_own else (0, 0)
            check_integer(getattr(self, name), field=name, minimum=low, maximum=high)
        _KINDS[self.kind].check(self)

    @property
    def head_dim(self) -> int:
        """D / H, dimensions of one attention head."""
        return self.embedding_dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward layer."""
        return self.embedding_dim * self.ffn_multiplier

    @property
    def heights(self) -> range:
        """Events that horizontal filters look at, lowest first."""
        return range(1, self.max_height + 1)


def coded_layers(config: BackboneConfig) -> LayerTable:
    """Return the coded matrices of a backbone, in the order of its plans.

    Raises:
        ConfigError: A matrix is larger than a layer may be.
    """
    return tuple(_KINDS[config.kind].coded(config))


def dense_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a backbone that is not coded."""
    return _KINDS[config.kind].dense(config)


def _check_sasrec(config: BackboneConfig) -> None:
    if config.embedding_dim % config.n_heads:
        raise ConfigError(
            f"n_heads: expected a divisor of embedding_dim {config.embedding_dim}, got "
            f"{config.n_heads}"
        )


def _check_caser(config: BackboneConfig) -> None:
    if config.max_height > config.window:
        raise ConfigError(
            f"max_height: expected at most the window {config.window}, got {config.max_height}"
        )


def _coded_sasrec(config: BackboneConfig) -> list[LayerShape]:
    dim, wide = config.embedding_dim, config.ffn_dim
    layers: list[LayerShape] = []
    for block in range(config.n_blocks):
        layers += [LayerShape(f"blocks.{block}.{name}", dim, dim) for name in "qkvo"]
        layers.append(LayerShape(f"blocks.{block}.ffn1", wide, dim))
        layers.append(LayerShape(f"blocks.{block}.ffn2", dim, wide))
    return layers


def _coded_caser(config: BackboneConfig) -> list[LayerShape]:
    dim, n_filters = config.embedding_dim, config.n_horizontal
    n_responses = config.n_vertical * dim + n_filters * config.max_height
    return [
        *(LayerShape(f"horizontal.{height}", n_filters, height * dim) for height in config.heights),
        LayerShape("vertical", config.n_vertical, config.window),
        LayerShape("fc", dim, n_responses),
    ]


def _dense_sasrec(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
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


def _dense_caser(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    return {f"{layer.name}.bias": (layer.n_channels,) for layer in _coded_caser(config)}


class _Kind(NamedTuple):
    """What one kind of backbone consists of."""

    fields: frozenset[str]
    check: Callable[[BackboneConfig], None]
    coded: Callable[[BackboneConfig], list[LayerShape]]
    dense: Callable[[BackboneConfig], dict[str, tuple[int, ...]]]


_SHARED_SIZES = ("embedding_dim", "window")
_SIZES = tuple(field.name for field in fields(BackboneConfig) if field.name != "kind")
_KINDS = {
    "sasrec": _Kind(
        fields=frozenset({"n_blocks", "n_heads", "ffn_multiplier"}),
        check=_check_sasrec,
        coded=_coded_sasrec,
        dense=_dense_sasrec,
    ),
    "caser": _Kind(
        fields=frozenset({"max_height", "n_horizontal", "n_vertical"}),
        check=_check_caser,
        coded=_coded_caser,
        dense=_dense_caser,
    ),
}

BACKBONE_KINDS = tuple(_KINDS)
"""Architectures this release knows."""
