# SPDX-License-Identifier: Apache-2.0
"""The objective as written on paper, and every partition of a few nodes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["dense_objective", "partitions", "random_graph"]


def dense_objective(
    matrix: NDArray[np.float64],
    weights: tuple[NDArray[np.float64], NDArray[np.float64]],
    labels: NDArray[np.int32],
    gamma: float,
) -> float:
    """Return the sum over co-clusters of edges inside minus gamma times both volumes."""
    n_users = matrix.shape[0]
    total = 0.0
    for label in set(labels.tolist()):
        users, items = labels[:n_users] == label, labels[n_users:] == label
        total += matrix[users][:, items].sum()
        total -= gamma * weights[0][users].sum() * weights[1][items].sum()
    return float(total)


def partitions(n_nodes: int, first: tuple[int, ...] = ()) -> Iterator[NDArray[np.int32]]:
    """Yield every partition of nodes, as labels."""
    if len(first) == n_nodes:
        yield np.array(first, np.int32)
        return
    for label in range(max(first, default=-1) + 2):
        yield from partitions(n_nodes, (*first, label))


def random_graph(rng: np.random.Generator, n_users: int, n_items: int) -> NDArray[np.float64]:
    """Return interactions with at least one."""
    matrix = (rng.random((n_users, n_items)) < 0.4).astype(np.float64)
    matrix[rng.integers(n_users), rng.integers(n_items)] = 1.0
    return matrix
