# SPDX-License-Identifier: Apache-2.0
"""Full ranking against several relevant items per user: Recall@k and NDCG@k."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RelevantRanks", "rank_relevant"]

_CELLS_PER_BLOCK = 2**24  # scores held at once: 64 MiB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RelevantRanks:
    """Where each relevant item was ranked.

    Attributes:
        users: (R,) int64, ascending.
        ranks: (R,) int64, items placed above; 0 is best.
        n_users: U, those without a relevant item included.
    """

    users: NDArray[np.int64]
    ranks: NDArray[np.int64]
    n_users: int

    @property
    def evaluated(self) -> NDArray[np.int64]:
        """(U_eval,) int64, users with a relevant item, ascending."""
        found: NDArray[np.int64] = np.unique(self.users)
        return found

    def recall(self, k: int) -> NDArray[np.float64]:
        """Return hits / min(k, relevant) per evaluated user: (U_eval,) float64.

        Args:
            k: Length of the list.
        """
        relevant = np.bincount(self.users, minlength=self.n_users)[self.evaluated]
        hits = np.bincount(self.users, weights=self.ranks < k, minlength=self.n_users)
        shares: NDArray[np.float64] = hits[self.evaluated] / np.minimum(k, relevant)
        return shares

    def ndcg(self, k: int) -> NDArray[np.float64]:
        """Return the gain over that of the best list per evaluated user: (U_eval,) float64.

        Args:
            k: Length of the list.
        """
        gains = np.where(self.ranks < k, 1 / np.log2(self.ranks + 2.0), 0.0)
        found = np.bincount(self.users, weights=gains, minlength=self.n_users)[self.evaluated]
        relevant = np.bincount(self.users, minlength=self.n_users)[self.evaluated]
        ideal = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
        shares: NDArray[np.float64] = found / ideal[np.minimum(k, relevant) - 1]
        return shares


def rank_relevant(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    relevant: Any,
    seen: Any,
    *,
    seed: int = 0,
) -> RelevantRanks:
    """Rank the relevant items of every user among all that were not seen.

    Equal scores are ordered by one random order of items, which neither favours relevant
    items nor counts a place twice: tables with shared rows collide often.

    Args:
        users: (U, D) float32.
        items: (V, D) float32.
        relevant: (U, V) CSR, the items to be found.
        seen: (U, V) CSR, items that are not ranked.
        seed: Of the order of equal scores.

    Returns:
        The ranks, by user.

    Raises:
        ConfigError: A vector is not finite, or a relevant item was seen.
    """
    if relevant.multiply(seen).nnz:
        raise ConfigError("expected relevant items that were not seen, found some in both")
    if not (np.isfinite(users).all() and np.isfinite(items).all()):
        raise ConfigError("expected vectors of finite numbers, found others")
    order = np.random.default_rng(seed).permutation(items.shape[0])
    chosen = np.flatnonzero(np.diff(relevant.indptr))
    at_once = max(1, _CELLS_PER_BLOCK // max(1, items.shape[0]))
    found_users, found_ranks = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for begin in range(0, chosen.size, at_once):
        block = chosen[begin : begin + at_once]
        scores = users[block] @ items.T
        scores[seen[block].nonzero()] = -np.inf
        rows, columns = relevant[block].nonzero()
        found_users.append(block[rows])
        found_ranks.append(_ranks(scores, rows, columns, order))
    return RelevantRanks(
        users=np.concatenate(found_users),
        ranks=np.concatenate(found_ranks),
        n_users=users.shape[0],
    )


def _ranks(scores: Any, rows: Any, columns: Any, order: Any) -> NDArray[np.int64]:
    own = scores[rows, columns]
    above, tied = _kernel()(scores, rows, own)
    # Ties are rare where rows are not shared: their order is looked at apart.
    for place in np.flatnonzero(tied > 1):
        equal = scores[rows[place]] == own[place]
        above[place] += np.count_nonzero(equal & (order < order[columns[place]]))
    ranks: NDArray[np.int64] = above
    return ranks


@cache
def _kernel() -> Any:
    """Compile what counts: one pass over scores, an order faster than NumPy's two."""
    import numba

    return numba.njit(nogil=True)(_count)


def _count(scores: Any, rows: Any, own: Any) -> tuple[Any, Any]:
    """Return how many scores of its row are above each, and how many equal it."""
    above, tied = np.zeros(rows.size, np.int64), np.zeros(rows.size, np.int64)
    for place in range(rows.size):
        row, score = scores[rows[place]], own[place]
        n_above, n_tied = 0, 0
        for column in range(row.size):
            n_above += row[column] > score
            n_tied += row[column] == score
        above[place], tied[place] = n_above, n_tied
    return above, tied
