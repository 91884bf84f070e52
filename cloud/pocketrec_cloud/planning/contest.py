# SPDX-License-Identifier: Apache-2.0
"""The same contest for many plans: held-out users, their negatives and their luck on ties.

All that is random is drawn once, so two plans differ in what they score and in nothing else.
Ranks are counted where the scores are, on a GPU if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pocketrec.errors import ConfigError
from pocketrec_cloud.batches import bucket_by_length, pad
from pocketrec_cloud.evaluation import N_SAMPLED_NEGATIVES, Quality, Ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from pocketrec_cloud.data.split import LeaveOneOut, Stage

__all__ = ["Contest"]

_CELLS_PER_BATCH = 2**24
_TOKENS_PER_BATCH = 50_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contest:
    """Users to rank for, one target each.

    Attributes:
        histories: Events before each target, oldest first.
        targets: (U,) int64, item indices.
        negatives: (U, n) int64, items the user has not seen, without repetition.
        luck: (U, 2) float64 within 0..1, decides ties of the full and the sampled ranking.
        n_items: V.
    """

    histories: tuple[NDArray[np.int32], ...]
    targets: NDArray[np.int64]
    negatives: NDArray[np.int64]
    luck: NDArray[np.float64]
    n_items: int

    @classmethod
    def of(
        cls, split: LeaveOneOut, stage: Stage, *, n_users: int | None = None, seed: int = 0
    ) -> Contest:
        """Prepare a contest.

        Args:
            split: The held-out data.
            stage: ``"validation"`` or ``"test"``.
            n_users: A random sample of so many; None = all.
            seed: Of negatives, ties and the sample.
        """
        rng = np.random.default_rng([seed, 2])
        users = split.users
        if n_users is not None and n_users < users.shape[0]:
            users = np.sort(rng.choice(users, n_users, replace=False))
        histories = tuple(split.history(int(user), stage) for user in users)
        targets = np.array([split.target(int(user), stage) for user in users], np.int64)
        n_items = split.dataset.n_items
        rows = [
            _unseen(rng, history, int(target), n_items)
            for history, target in zip(histories, targets, strict=True)
        ]
        shortest = min(row.shape[0] for row in rows)
        return cls(
            histories=histories,
            targets=targets,
            negatives=np.stack([row[:shortest] for row in rows]),
            luck=rng.random((users.shape[0], 2)),
            n_items=n_items,
        )

    def ranks(self, score: Callable[[NDArray[np.int64]], Tensor]) -> Ranks:
        """Rank every target among all items its user has not seen, and among the negatives.

        Args:
            score: Takes rows, (B,) int64, and returns their scores, (B, V + 1) float32,
                finite but for the padding's; they are overwritten.

        Raises:
            ConfigError: A score is NaN, or a target's is infinite.
        """
        full, sampled = np.empty((2, self.targets.shape[0]), np.int64)
        lengths = np.array([history.shape[0] for history in self.histories], np.int64)
        at_once = max(1, _CELLS_PER_BATCH // (self.n_items + 1))
        for bucket in bucket_by_length(lengths, _TOKENS_PER_BATCH):
            for start in range(0, bucket.shape[0], at_once):
                rows = bucket[start : start + at_once]
                full[rows], sampled[rows] = self._ranks_of(rows, score(rows))
        return Ranks(full=Quality(ranks=full), sampled=Quality(ranks=sampled))

    def _ranks_of(
        self, rows: NDArray[np.int64], scores: Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        device = scores.device
        targets = torch.from_numpy(self.targets[rows]).to(device)[:, None]
        negatives = torch.from_numpy(self.negatives[rows]).to(device)
        own = scores.gather(1, targets)
        seen = pad([self.histories[row] for row in rows]).to(device)  # 0 is padding's column
        scores.scatter_(1, seen, float("-inf"))
        scores.scatter_(1, targets, own)
        scores[:, 0] = float("-inf")
        if scores.isnan().any() or own.isinf().any():  # it would rank as best, and flatter
            raise ConfigError(
                "expected finite scores, found NaN or infinity: train with smaller steps"
            )
        among_negatives = scores.gather(1, negatives)
        luck = torch.from_numpy(self.luck[rows]).to(device)
        full = _rank(scores, own, luck[:, 0], n_own=1)
        sampled = _rank(among_negatives, own, luck[:, 1], n_own=0)
        return full, sampled


def _unseen(
    rng: np.random.Generator, history: NDArray[np.int32], target: int, n_items: int
) -> NDArray[np.int64]:
    """Draw items that are neither in the history nor the target, in random order."""
    taken = np.zeros(n_items + 1, np.bool_)
    taken[0] = taken[target] = True
    taken[history] = True
    n_left = n_items + 1 - int(taken.sum())
    if n_left <= 4 * N_SAMPLED_NEGATIVES:
        return rng.permutation(np.flatnonzero(~taken))[:N_SAMPLED_NEGATIVES]
    found: list[int] = []
    while len(found) < N_SAMPLED_NEGATIVES:
        for item in rng.integers(1, n_items + 1, 2 * N_SAMPLED_NEGATIVES).tolist():
            if not taken[item] and len(found) < N_SAMPLED_NEGATIVES:
                taken[item] = True
                found.append(item)
    return np.array(found, np.int64)


def _rank(others: Tensor, own: Tensor, luck: Tensor, *, n_own: int) -> NDArray[np.int64]:
    """Count what scores higher, and a random share of what ties: (B,) int64."""
    above = (others > own).sum(1)
    tied = (others == own).sum(1) - n_own
    ranks: NDArray[np.int64] = (above + (luck * (tied + 1)).floor().long()).cpu().numpy()
    return ranks
