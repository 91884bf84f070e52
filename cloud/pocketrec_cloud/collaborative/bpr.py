# SPDX-License-Identifier: Apache-2.0
"""Bayesian personalised ranking: an item met should score above one that was not."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["TripletSampler", "bpr_loss", "squared_norm"]


def bpr_loss(vectors: Tensor, nodes: NDArray[np.int64]) -> Tensor:
    """Return the mean of -log sigmoid(positive score - negative score).

    Args:
        vectors: (N, D) float32, contiguous.
        nodes: (3, B) int64, rows of users, of items that they met, and of items that they did
            not.

    Returns:
        () float32.

    Source:
        Rendle et al. 2009, section 4.1.
    """
    gaps: Tensor = _Gaps.apply(vectors, nodes)  # type: ignore[no-untyped-call]
    return functional.softplus(gaps).mean()


def squared_norm(vectors: Tensor, nodes: NDArray[np.int64]) -> Tensor:
    """Return the squared norm of the vectors of a batch, over its triplets.

    Args:
        vectors: (N, D) float32.
        nodes: (3, B) int64; who occurs twice counts twice.

    Returns:
        () float32.
    """
    counts = np.bincount(nodes.ravel(), minlength=vectors.shape[0])
    shares = torch.from_numpy((counts / nodes.shape[1]).astype(np.float32))
    total: Tensor = vectors.square().sum(1) @ shares
    return total


class _Gaps(torch.autograd.Function):
    """Negative minus positive scores, without a copy of the vectors of a batch."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, nodes: NDArray[np.int64]) -> Tensor:
        ctx.nodes = nodes
        ctx.save_for_backward(vectors)
        return torch.from_numpy(_kernels()[0](vectors.detach().numpy(), nodes))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (vectors,) = ctx.saved_tensors
        found = _kernels()[1](vectors.numpy(), ctx.nodes, gradients[0].contiguous().numpy())
        return torch.from_numpy(found), None


@cache
def _kernels() -> tuple[Any, Any]:
    """Compile them; the order of additions may be any."""
    import numba

    compiled = numba.njit(nogil=True, fastmath={"reassoc", "contract"})
    return compiled(_gaps), compiled(_gradient)


def _gaps(vectors: Any, nodes: Any) -> Any:
    """Return u (n - p) for each triplet of rows (u, p, n)."""
    found = np.empty(nodes.shape[1], vectors.dtype)
    for place in range(nodes.shape[1]):
        user, positive = vectors[nodes[0, place]], vectors[nodes[1, place]]
        negative = vectors[nodes[2, place]]
        total = vectors.dtype.type(0)
        for column in range(vectors.shape[1]):
            total += user[column] * (negative[column] - positive[column])
        found[place] = total
    return found


def _gradient(vectors: Any, nodes: Any, outer: Any) -> Any:
    """Return the gradient by the vectors, of that by the gaps."""
    found = np.zeros_like(vectors)
    for place in range(nodes.shape[1]):
        user, positive, negative = nodes[0, place], nodes[1, place], nodes[2, place]
        factor = outer[place]
        for column in range(vectors.shape[1]):
            step = factor * vectors[user, column]
            found[user, column] += factor * (vectors[negative, column] - vectors[positive, column])
            found[positive, column] -= step
            found[negative, column] += step
    return found


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
