# SPDX-License-Identifier: Apache-2.0
"""Bayesian personalised ranking: an item met should score above one that was not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["TripletSampler", "bpr_loss"]


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(positive score - negative score).

    Args:
        users: (B, D) float32.
        positives: (B, D) float32, items that these users met.
        negatives: (B, D) float32, items that they did not.

    Returns:
        () float32.

    Source:
        Rendle et al. 2009, section 4.1.
    """
    return functional.softplus((users * (negatives - positives)).sum(-1)).mean()


class TripletSampler:
    """Walks over all interactions in random order, with one negative each.

    Args:
        train: (U, V) CSR with sorted columns.

    Raises:
        ConfigError: A user met every item, so that there is no negative.
    """

    def __init__(self, train: Any) -> None:
        degrees = np.diff(train.indptr)
        self._n_items = int(train.shape[1])
        if degrees.max(initial=0) >= self._n_items:
            raise ConfigError("expected an item that each user did not meet, found none for one")
        self._users = np.repeat(np.arange(train.shape[0], dtype=np.int64), degrees)
        self._items = train.indices.astype(np.int64)
        self._keys = self._users * self._n_items + self._items

    def epoch(
        self, rng: np.random.Generator, batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield users, positives and negatives: (B,) int64 each.

        Args:
            rng: Source of order and negatives.
            batch_size: B; the last one may be smaller.

        Yields:
            One batch after the other, every interaction once.
        """
        order = rng.permutation(self._users.size)
        negatives = self._negatives(rng)
        for begin in range(0, order.size, batch_size):
            chosen = order[begin : begin + batch_size]
            yield self._users[chosen], self._items[chosen], negatives[chosen]

    def _negatives(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw uniformly, and again where an item was met."""
        found = rng.integers(0, self._n_items, self._users.size)
        pending = np.arange(found.size)
        while pending.size:
            keys = self._users[pending] * self._n_items + found[pending]
            places = np.searchsorted(self._keys, keys)
            places[places == self._keys.size] = 0
            pending = pending[self._keys[places] == keys]
            found[pending] = rng.integers(0, self._n_items, pending.size)
        return found
