# SPDX-License-Identifier: Apache-2.0
"""Leaves out what a plan's pruned channels would only compute constants with.

A channel of 0 bits gives its bias, whatever comes in. Where one other layer alone reads
it, what it adds there is a constant too, f(bias) times the columns that read it: they go
into that layer's bias, and neither the channel's row nor those columns need be kept.

    W2 f(W1 x + b1) + b2  =  W2[:, on] f(W1[on] x + b1[on]) + (b2 + W2[:, off] f(b1[off]))

A layer whose channels are all off keeps the first, for no runtime likes empty matrices.

Source: our choice; CHORD prunes layers whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.backbone import Feed
from pocketrec_quantization.budget import coded_bytes
from pocketrec_quantization.layers import LayerShape, LayerTable, split_by_layer

__all__ = ["Folding", "resident_bytes"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Folding:
    """Which rows and columns of coded matrices are left under one plan.

    Args:
        feeds: Layers that only feed another one.
        off: Name of every such layer to (C,) bool: its channels of 0 bits.
        n_elements: Name of every reader to N, columns of its matrix.

    Attributes:
        rows: Name of a layer to (K,) intp, its channels that are left; only layers that
            lose some.
        columns: Name of a layer to (K,) intp, its elements that are left; only layers that
            lose some.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        off: Mapping[str, NDArray[np.bool_]],
        n_elements: Mapping[str, int],
    ) -> None:
        self.rows: dict[str, NDArray[np.intp]] = {}
        self.columns: dict[str, NDArray[np.intp]] = {}
        self._dropped: dict[str, list[tuple[Feed, NDArray[np.intp]]]] = {}
        for feed in feeds:
            dropped = _dropped(off[feed.layer])
            if dropped.size:
                self._dropped.setdefault(feed.reader, []).append((feed, dropped))
                self.rows[feed.layer] = _others(dropped, len(feed.columns))
        for reader, parts in self._dropped.items():
            gone = [feed.columns[dropped].ravel() for feed, dropped in parts]
            self.columns[reader] = _others(np.concatenate(gone), n_elements[reader])

    @classmethod
    def of_layers(
        cls, feeds: Iterable[Feed], layers: LayerTable, widths: NDArray[np.uint8]
    ) -> Folding:
        """Return what is left under a plan.

        Args:
            feeds: Of the layers.
            layers: The model's layers.
            widths: (C_total,) uint8, bits per channel.

        Raises:
            ConfigError: ``widths`` has another length.
        """
        off = split_by_layer(widths == 0, layers)
        return cls(feeds, off, {layer.name: layer.n_elements for layer in layers})

    def cut(self, name: str, weights: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return the rows and columns of a layer's matrix (C, N) that are left."""
        if name in self.rows:
            weights = weights[self.rows[name]]
        if name in self.columns:
            weights = weights.take(self.columns[name], axis=1)
        return weights

    def cut_channels(self, name: str, values: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return those of (C,) values per channel that are left."""
        return values[self.rows[name]] if name in self.rows else values

    def bias(
        self,
        name: str,
        weights: NDArray[np.float32] | NDArray[np.float64],
        biases: Mapping[str, NDArray[np.float32]] | Mapping[str, NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Return what a layer adds, with the constants that its columns were left out for.

        Args:
            name: The layer.
            weights: (C, N), its whole matrix.
            biases: Name of a layer to its whole bias, (C,).

        Returns:
            (K,) float64, of the channels that are left.
        """
        total = biases[name].astype(np.float64)
        for feed, dropped in self._dropped.get(name, ()):
            constants = biases[feed.layer][dropped].astype(np.float64)
            if feed.is_rectified:
                constants = np.maximum(constants, 0.0)
            read = weights[:, feed.columns[dropped].T.ravel()].astype(np.float64)
            total += read @ np.tile(constants, feed.columns.shape[1])
        return self.cut_channels(name, total)


def resident_bytes(feeds: Iterable[Feed], layers: LayerTable, widths: NDArray[np.uint8]) -> int:
    """Return the bytes of what has to be kept of the coded matrices, scales included.

    Args:
        feeds: Of the layers.
        layers: The model's layers.
        widths: (C_total,) uint8, bits per channel.

    Raises:
        ConfigError: As ``coded_bytes``.
    """
    folding = Folding.of_layers(feeds, layers, widths)
    by_layer = split_by_layer(widths, layers)
    left, kept = [], []
    for layer in layers:
        own = folding.cut_channels(layer.name, by_layer[layer.name])
        n_elements = len(folding.columns.get(layer.name, range(layer.n_elements)))
        left.append(LayerShape(layer.name, len(own), n_elements))
        kept.append(own)
    return coded_bytes(tuple(left), np.concatenate(kept))


def _dropped(off: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the channels to leave out, (K,) intp, ascending."""
    dropped = np.flatnonzero(off)
    return dropped if dropped.size < off.size else dropped[1:]


def _others(gone: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Return those of 0, ..., n - 1 that are not gone, ascending."""
    is_left = np.ones(n, np.bool_)
    is_left[gone] = False
    return np.flatnonzero(is_left)
