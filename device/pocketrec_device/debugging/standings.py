# SPDX-License-Identifier: Apache-2.0
"""How held-out users' states rank the catalogue: where the target stands, and what leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.metrics import ndcg, rank_of_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_quantization.cases import EvaluationCases

__all__ = ["TOP", "Catalogue", "Standings"]

TOP = 10
"""k of NDCG@k and of the overlap of lists."""

_CELLS_AT_ONCE = 2**22  # scores held in memory: 16 MiB


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standings:
    """What one ranking of the whole catalogue yields per user.

    Attributes:
        ndcg: (U,) float64, NDCG@10 of the held-out target.
        leaders: (U, k) int64, the items ranked first, sorted by index; k is 10, or V.
    """

    ndcg: NDArray[np.float64]
    leaders: NDArray[np.int64]

    def of(self, rows: NDArray[np.intp]) -> Standings:
        """Return those of some users."""
        return Standings(ndcg=self.ndcg[rows], leaders=self.leaders[rows])

    def overlap(self, other: Standings) -> NDArray[np.float64]:
        """Return the share of leaders that two rankings have in common: (U,) float64."""
        n_leaders = self.leaders.shape[1]
        both = np.sort(np.concatenate([self.leaders, other.leaders], axis=1), axis=1)
        shares: NDArray[np.float64] = (both[:, 1:] == both[:, :-1]).sum(axis=1) / n_leaders
        return shares


class Catalogue:
    """All items, to be ranked for held-out users.

    Args:
        cases: The users.
        embeddings: (V + 1, D) float32, row 0 is padding.
        seed: Of tie-breaks.
    """

    def __init__(
        self, cases: EvaluationCases, embeddings: NDArray[np.float32], *, seed: int = 0
    ) -> None:
        self._cases = cases
        self._embeddings = np.ascontiguousarray(embeddings.T)
        self._seed = seed

    def rank(self, states: NDArray[np.float32], users: NDArray[np.intp]) -> Standings:
        """Rank what each user has not met, the target excepted.

        Args:
            states: (n, D) float32.
            users: (n,) integer, which cases they are of.
        """
        rng = np.random.default_rng(self._seed)
        n_columns = self._embeddings.shape[1]
        n_leaders = min(TOP, n_columns - 1)
        ranks = np.empty(len(states), np.int64)
        leaders = np.empty((len(states), n_leaders), np.int64)
        at_once = max(1, _CELLS_AT_ONCE // n_columns)
        for start in range(0, len(states), at_once):
            rows = slice(start, start + at_once)
            scores = states[rows] @ self._embeddings
            targets = self._hide_seen(scores, users[rows])
            ranks[rows] = rank_of_target(scores, targets, rng)
            first = np.argpartition(-scores, n_leaders - 1, axis=1)[:, :n_leaders]
            leaders[rows] = np.sort(first, axis=1)
        return Standings(ndcg=ndcg(ranks, TOP), leaders=leaders)

    def _hide_seen(self, scores: NDArray[np.float32], users: NDArray[np.intp]) -> NDArray[np.int64]:
        """Take items of the histories out of ``scores``; return the targets, (B,) int64."""
        targets = self._cases.targets[users].astype(np.int64)
        rows = np.arange(len(users))
        own = scores[rows, targets]
        scores[:, 0] = -np.inf
        for row, user in enumerate(users.tolist()):
            scores[row, self._cases.history(user)] = -np.inf
        scores[rows, targets] = own
        return targets
