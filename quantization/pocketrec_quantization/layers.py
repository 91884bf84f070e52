# SPDX-License-Identifier: Apache-2.0
"""The coded matrices of a model, and the flat order of their channels.

A *layer* is one frozen matrix W_l of C_l output channels with N_l elements each. A
plan holds one code per channel of all layers: layer by layer in the order of the
table, channel by channel within a layer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import check_integer, check_name
from pocketrec_quantization.limits import MAX_LAYER_SIDE, MAX_LAYERS, MAX_TOTAL_CHANNELS

__all__ = [
    "LayerShape",
    "LayerTable",
    "check_layers",
    "elements_per_channel",
    "split_by_layer",
    "total_channels",
    "total_weights",
]

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Name and shape of one coded matrix.

    Args:
        name: Without the trailing ``.weight``, such as ``blocks.0.q``.
        n_channels: C_l, rows of the matrix.
        n_elements: N_l, columns of the matrix.

    Raises:
        ConfigError: A field is outside the limits.
    """

    name: str
    n_channels: int
    n_elements: int

    def __post_init__(self) -> None:
        check_name(self.name, field="layer.name")
        check_integer(self.n_channels, field="n_channels", minimum=1, maximum=MAX_LAYER_SIDE)
        check_integer(self.n_elements, field="n_elements", minimum=1, maximum=MAX_LAYER_SIDE)


LayerTable: TypeAlias = tuple[LayerShape, ...]
"""The layers of a model, in the order that plans use."""


@functools.lru_cache(maxsize=64)  # few models, many plans
def check_layers(layers: LayerTable) -> None:
    """Refuse a table that is empty, too large, or names a layer twice.

    Raises:
        ConfigError: The table breaks one of these rules.
    """
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise ConfigError(f"layers: expected 1..{MAX_LAYERS} layers, got {len(layers)}")
    seen: set[str] = set()
    for layer in layers:
        if layer.name in seen:
            raise ConfigError(f"layers: {layer.name!r} is named twice")
        seen.add(layer.name)
    if total_channels(layers) > MAX_TOTAL_CHANNELS:
        raise ConfigError(
            f"layers: expected at most {MAX_TOTAL_CHANNELS} channels in all, got more"
        )


@functools.lru_cache(maxsize=64)
def total_channels(layers: LayerTable) -> int:
    """Count the channels of all layers: the length of a plan's codes."""
    return sum(layer.n_channels for layer in layers)


def total_weights(layers: LayerTable) -> int:
    """Count the weights of all layers."""
    return sum(layer.n_channels * layer.n_elements for layer in layers)


def elements_per_channel(layers: LayerTable) -> NDArray[np.int64]:
    """Return N_l for every channel of the flat order, as (C_total,) int64."""
    sizes = [layer.n_elements for layer in layers]
    return np.repeat(np.array(sizes, np.int64), [layer.n_channels for layer in layers])


def split_by_layer(flat: NDArray[_Scalar], layers: LayerTable) -> dict[str, NDArray[_Scalar]]:
    """Cut an array over all channels into one view per layer.

    Args:
        flat: (C_total, ...), anything that is held per channel.
        layers: The table that gives the order.

    Returns:
        Layer name to view (C_l, ...) of ``flat``, in table order.

    Raises:
        ConfigError: ``flat`` does not have C_total entries.
    """
    if flat.shape[:1] != (total_channels(layers),):
        raise ConfigError(
            f"expected {total_channels(layers)} channels, got an array of shape {flat.shape}"
        )
    ends = np.cumsum([layer.n_channels for layer in layers])
    return {
        layer.name: flat[end - layer.n_channels : end]
        for layer, end in zip(layers, ends, strict=True)
    }
