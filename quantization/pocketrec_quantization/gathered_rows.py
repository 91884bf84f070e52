# SPDX-License-Identifier: Apache-2.0
"""Embeddings of a few items, taken out of a table to be scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["GatheredRows"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatheredRows:
    """The embeddings of a few items, taken out of a table to be scored.

    Args:
        codes: (M, D) float32: integers, or what several codebooks add up to.
        scales: (M,) float32; an embedding is codes times scale.
    """

    codes: NDArray[np.float32]
    scales: NDArray[np.float32]

    def scores(self, h: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return inner products with a user's state.

        Every row is summed on its own, in one thread: a score depends neither on the
        other rows nor on where its row stands.

        Args:
            h: (D,) float32.

        Returns:
            (M,) float32.
        """
        products: NDArray[np.float32] = np.vecdot(self.codes, h)
        products *= self.scales
        return products

    def embedding(self, position: int) -> NDArray[np.float32]:
        """Return one item's embedding, (D,) float32."""
        embedding: NDArray[np.float32] = self.codes[position] * self.scales[position]
        return embedding
