# SPDX-License-Identifier: Apache-2.0
"""Generated interactions: groups of users and items, and degrees with heavy tails. Needs numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["GROUP_ITEMS", "power_law_graph"]

GROUP_ITEMS = 256
"""Items of one group."""

_MEAN_DEGREE = 16.0
_ITEM_DEGREE = 64.0
_SHAPE = 1.5  # of the Pareto distribution of users' degrees: its density falls with d^-2.5
_INSIDE = 0.8  # of a user's draws, among the items of their group
_STEEPNESS = 3.0  # of u^3 as a place: the degrees of items fall as those of users do
_LOST = 0.775  # of draws are left without duplicates


def power_law_graph(n_edges: int, *, seed: int) -> Any:
    """Return interactions, near ``n_edges`` of them, as a CSR matrix of int8 ones.

    Peaks at about 12 bytes per edge.

    Args:
        n_edges: How many are wanted; duplicates are drawn and left out.
        seed: Of everything.

    Source:
        Our choice. 80 % of draws are inside one of V / 256 groups, at places u^3 in it.
    """
    n_users = max(2, int(n_edges / _MEAN_DEGREE))
    n_groups = max(2, int(n_edges / _ITEM_DEGREE / GROUP_ITEMS))
    n_items = n_groups * GROUP_ITEMS
    rng = np.random.default_rng(seed)
    least = n_edges / n_users / _LOST * (1 - 1 / _SHAPE)
    degrees = least * rng.random(n_users, np.float32) ** np.float32(-1 / _SHAPE)
    degrees = np.minimum(degrees, n_items / 4) + rng.random(n_users, np.float32)
    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(degrees.astype(np.int64), out=offsets[1:])
    groups = rng.integers(n_groups, size=n_users, dtype=np.int32)
    indices = np.empty(offsets[-1], np.int32)
    draw: Any = numba.njit(_draw)
    n_kept = draw(rng, (offsets, indices), groups, n_groups)
    indices = indices[:n_kept].copy()
    return sparse.csr_matrix(
        (np.ones(n_kept, np.int8), indices, offsets.astype(np.int32)), shape=(n_users, n_items)
    )


def _draw(
    rng: np.random.Generator,
    arrays: tuple[NDArray[np.int64], NDArray[np.int32]],
    groups: NDArray[np.int32],
    n_groups: int,
) -> int:
    """Draw each user's items, sort them, leave duplicates out; return how many are left."""
    offsets, indices = arrays
    n_kept, begin = 0, 0
    for user in range(groups.size):
        end = offsets[user + 1]
        for j in range(begin, end):
            place = rng.random() ** _STEEPNESS
            if rng.random() < _INSIDE:
                indices[j] = int(place * GROUP_ITEMS) * n_groups + groups[user]
            else:
                indices[j] = int(place * GROUP_ITEMS * n_groups)
        own = indices[begin:end]
        own.sort()
        first = n_kept
        for j in range(begin, end):
            if n_kept == first or indices[n_kept - 1] != indices[j]:
                indices[n_kept] = indices[j]
                n_kept += 1
        offsets[user + 1] = n_kept
        begin = end
    return n_kept
