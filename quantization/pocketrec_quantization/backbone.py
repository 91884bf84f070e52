# SPDX-License-Identifier: Apache-2.0
"""The architecture as data: which tensors a backbone has, which are coded, who reads whom.

A coded matrix W_l is (C_l, N_l) = (outputs, inputs) and stored at 8 bits; every other
tensor stays float32. The order of :func:`coded_layers` is the order of a plan's codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import check_integer
from pocketrec_quantization.layers import LayerShape, LayerTable
from pocketrec_quantization.limits import MAX_LAYER_SIDE

__all__ = [
    "BACKBONE_KINDS",
    "BackboneConfig",
    "Feed",
    "coded_layers",
    "dense_shapes",
    "layer_feeds",
]


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Feed:
    """A coded layer whose result nothing reads but another coded layer.

    On the way each channel stays by itself: rows may be put side by side, the largest of
    several may be taken, ReLU may follow. So a channel of 0 bits, which always gives its
    bias, is a constant to the reader.

    Args:
        layer: Its name.
        reader: Name of the layer that reads it.
        columns: (C, R) intp: of the reader's matrix, those that each channel is read by.
        is_rectified: Whether ReLU lies between.
    """

    layer: str
    reader: str
    columns: NDArray[np.intp]
    is_rectified: bool


def coded_layers(config: BackboneConfig) -> LayerTable:
    """Return the coded matrices of a backbone, in the order of its plans.

    Raises:
        ConfigError: A matrix is larger than a layer may be.
    """
    return tuple(_KINDS[config.kind].coded(config))


def dense_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a backbone that is not coded."""
    return _KINDS[config.kind].dense(config)


def layer_feeds(config: BackboneConfig) -> tuple[Feed, ...]:
    """Return the layers of a backbone that only feed another one, in the order of its plans."""
    return tuple(_KINDS[config.kind].feeds(config))


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


def _feeds_sasrec(config: BackboneConfig) -> list[Feed]:
    columns = np.arange(config.ffn_dim)[:, None]
    return [
        Feed(
            layer=f"blocks.{block}.ffn1",
            reader=f"blocks.{block}.ffn2",
            columns=columns,
            is_rectified=True,
        )
        for block in range(config.n_blocks)
    ]


def _feeds_caser(config: BackboneConfig) -> list[Feed]:
    """All filters feed the last layer: vertical ones once per column of the image, in front."""
    n_vertical, n_filters = config.n_vertical, config.n_horizontal
    n_flat = n_vertical * config.embedding_dim
    feeds = [
        Feed(
            layer=f"horizontal.{height}",
            reader="fc",
            columns=n_flat + (height - 1) * n_filters + np.arange(n_filters)[:, None],
            is_rectified=True,
        )
        for height in config.heights
    ]
    columns = np.arange(n_flat).reshape(-1, n_vertical).T
    return [*feeds, Feed(layer="vertical", reader="fc", columns=columns, is_rectified=False)]


class _Kind(NamedTuple):
    """What one kind of backbone consists of."""

    fields: frozenset[str]
    check: Callable[[BackboneConfig], None]
    coded: Callable[[BackboneConfig], list[LayerShape]]
    dense: Callable[[BackboneConfig], dict[str, tuple[int, ...]]]
    feeds: Callable[[BackboneConfig], list[Feed]]


_SHARED_SIZES = ("embedding_dim", "window")
_SIZES = tuple(field.name for field in fields(BackboneConfig) if field.name != "kind")
_KINDS = {
    "sasrec": _Kind(
        fields=frozenset({"n_blocks", "n_heads", "ffn_multiplier"}),
        check=_check_sasrec,
        coded=_coded_sasrec,
        dense=_dense_sasrec,
        feeds=_feeds_sasrec,
    ),
    "caser": _Kind(
        fields=frozenset({"max_height", "n_horizontal", "n_vertical"}),
        check=_check_caser,
        coded=_coded_caser,
        dense=_dense_caser,
        feeds=_feeds_caser,
    ),
}

BACKBONE_KINDS = tuple(_KINDS)
"""Architectures this release knows."""
