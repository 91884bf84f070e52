# SPDX-License-Identifier: Apache-2.0
"""Evaluates hypernetworks with NumPy: from centred user embeddings to raw channel scores.

Users go through in blocks of one size, the last one filled up: how products of matrices are
rounded depends on their shapes, and what a user gets must not depend on who else is planned
for in the same call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.layers import LayerTable, total_channels

if TYPE_CHECKING:
    from pocketrec_quantization.personal import HypernetworkConfig

__all__ = ["EPSILON", "ScoreNetworks"]

EPSILON = np.float32(1e-6)
"""Added before a logarithm."""

_USERS_AT_ONCE = 16  # few: a request may come alone; enough for full-speed products
_ZERO = np.float32(0)


class ScoreNetworks:
    """The networks of one planner, ready to be evaluated; safe to share between threads.

    Args:
        layers: The layers that it plans for.
        config: The shape of the networks.
        arrays: What ``config.shapes(layers)`` names, float32.
    """

    def __init__(
        self,
        layers: LayerTable,
        config: HypernetworkConfig,
        arrays: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self._layers, self._terms, self._rank = layers, config.terms, config.rank
        self._networks = config.networks(layers)
        # Transposed and contiguous, as products are fastest and rounded alike in every row.
        self._weights = {
            name.removesuffix("/weight"): np.ascontiguousarray(array.T)
            for name, array in arrays.items()
            if name.endswith("/weight")
        }
        self._biases = {name: arrays[f"{name}/bias"] for name in self._weights}

    def scores(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sum of the logarithms of the terms.

        Args:
            z: (B, D) float32, centred user embeddings.

        Returns:
            (B, C_total) float32.
        """
        scores = np.zeros((len(z), total_channels(self._layers)), np.float32)
        if not self._networks:
            return scores
        for start in range(0, len(z), _USERS_AT_ONCE):
            block = z[start : start + _USERS_AT_ONCE]
            missing = _USERS_AT_ONCE - len(block)
            found = self._block(np.pad(block, ((0, missing), (0, 0))) if missing else block)
            scores[start : start + _USERS_AT_ONCE] = found[: len(block)]
        return scores

    def _block(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        hidden = np.maximum(self._linear("hidden", z), _ZERO)
        parts = np.split(hidden, len(self._networks), axis=1)
        of_network = dict(zip(self._networks, parts, strict=True))
        terms = []
        if "filter" in self._terms:
            terms.append(_log_softplus(self._by_channel("filter", of_network)))
        if "element" in self._terms:
            means = np.concatenate(list(self._means(of_network)), axis=1)
            terms.append(np.log(means + EPSILON))
        if "layer" in self._terms:
            of_layer = _log_softplus(self._linear("layer", of_network["layer"]))
            sizes = [layer.n_channels for layer in self._layers]
            terms.append(np.repeat(of_layer, sizes, axis=1))
        found: NDArray[np.float32] = sum(terms[1:], start=terms[0])
        return found

    def _by_channel(
        self, kind: str, hidden: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        names = [f"{kind}/{layer.name}" for layer in self._layers]
        return np.concatenate([self._linear(name, hidden[name]) for name in names], axis=1)

    def _means(self, hidden: Mapping[str, NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield mean_j |e_cj| of e = P Q, (B, C) of every layer."""
        for layer in self._layers:
            name = f"element/{layer.name}"
            factors = self._linear(name, hidden[name])  # P of (C, r), then Q of (r, N)
            left, right = np.split(factors, [layer.n_channels * self._rank], axis=1)
            elements = np.matmul(
                left.reshape(len(left), layer.n_channels, self._rank),
                right.reshape(len(left), self._rank, layer.n_elements),
            )
            np.abs(elements, out=elements)
            # A product with ones is several times as fast as a sum.
            yield np.matmul(elements, np.full(layer.n_elements, 1 / layer.n_elements, np.float32))

    def _linear(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = np.matmul(x, self._weights[name])
        out += self._biases[name]
        return out


def _log_softplus(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return log(log(1 + e^x) + epsilon), float32."""
    softplus: NDArray[np.float32] = np.maximum(x, _ZERO) + np.log1p(np.exp(-np.abs(x)))
    found: NDArray[np.float32] = np.log(softplus + EPSILON)
    return found
