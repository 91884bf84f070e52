# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out evaluation: full ranking first, one against 99 beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from pocketrec.metrics import bootstrap_mean, hit_rate, ndcg, rank_of_target
from pocketrec_cloud.batches import bucket_by_length, pad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from pocketrec.metrics import Interval
    from pocketrec_cloud.backbones.base import ItemEmbedding
    from pocketrec_cloud.data.split import LeaveOneOut, Stage

__all__ = [
    "Metric",
    "Quality",
    "Ranks",
    "Scorer",
    "SequenceBackbone",
    "SequenceModel",
    "evaluate",
    "popularity_scorer",
    "rank_all",
]

Metric = Literal["hr", "ndcg"]

TOKENS_PER_BATCH = 50_000
CELLS_PER_BATCH = 2**24
N_SAMPLED_NEGATIVES = 99


class Scorer(Protocol):
    """Anything that scores the whole catalogue for a batch of histories."""

    def __call__(self, histories: list[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Return (B, V + 1) float32 for B histories, oldest event first."""
        ...


class SequenceBackbone(Protocol):
    """A torch module that turns histories into states, which rank items by inner product."""

    @property
    def item_embedding(self) -> ItemEmbedding:
        """(V + 1, D) float32, row 0 is padding."""
        ...

    def last_states(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, D) float32, the state after the last of each row's ``lengths`` events."""
        ...


@dataclass(frozen=True, slots=True)
class SequenceModel:
    """Scores with a torch backbone; only the last ``window`` events are seen.

    Attributes:
        model: The backbone, in evaluation mode.
        window: L.
    """

    model: SequenceBackbone
    window: int

    def __call__(self, histories: list[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Return (B, V + 1) float32 for B histories, oldest event first."""
        recent = [history[-self.window :] for history in histories]
        items = self.model.item_embedding.weight
        lengths = torch.tensor([row.shape[0] for row in recent], device=items.device)
        with torch.inference_mode():
            hidden = self.model.last_states(pad(recent).to(items.device), lengths)
            scores: NDArray[np.float32] = (hidden @ items.T).cpu().numpy()
        return scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quality:
    """Per-user HR and NDCG of one protocol, with their intervals.

    Attributes:
        ranks: (U_eval,) int64, 0 is best.
    """

    ranks: NDArray[np.int64]

    def per_user(self, metric: Metric, k: int) -> NDArray[np.float64]:
        """Return one metric at ``k`` for every user: (U_eval,) float64."""
        return hit_rate(self.ranks, k) if metric == "hr" else ndcg(self.ranks, k)

    def mean(self, metric: Metric, k: int) -> float:
        """Return the mean of one metric at ``k``."""
        return float(self.per_user(metric, k).mean())

    def interval(self, metric: Metric, k: int) -> Interval:
        """Return the mean of one metric at ``k`` with its 95 % interval."""
        return bootstrap_mean(self.per_user(metric, k))

    def as_record(self) -> dict[str, float | list[float]]:
        """Return HR and NDCG at 5 and 10, NDCG@10 with its interval."""
        best = self.interval("ndcg", 10)
        return {
            "hr@5": self.mean("hr", 5),
            "hr@10": self.mean("hr", 10),
            "ndcg@5": self.mean("ndcg", 5),
            "ndcg@10": best.mean,
            "ndcg@10_interval": [best.low, best.high],
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranks:
    """What one pass over the users yields.

    Attributes:
        full: The target among all items.
        sampled: The target among 99 uniform items the user has not seen.
    """

    full: Quality
    sampled: Quality


def evaluate(
    scorer: Scorer,
    split: LeaveOneOut,
    *,
    stage: Stage,
    filter_seen: bool = True,
    seed: int = 0,
) -> Ranks:
    """Rank every evaluated user's target.

    Args:
        scorer: Scores histories against the catalogue.
        split: The held-out data.
        stage: ``"validation"`` or ``"test"``.
        filter_seen: Take items of the history out of the ranking, the target excepted.
        seed: Seed of the tie-break and of the sampled negatives.

    Returns:
        Ranks per user, in the order of ``split.users``.
    """
    # Apart, so that models whose scores tie differently still face the same negatives.
    tie_rng, negative_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    full = np.empty(split.users.shape[0], dtype=np.int64)
    sampled = np.empty_like(full)
    for batch in _scored(scorer, split, stage):
        full[batch.rows] = batch.ranks(tie_rng, filter_seen=filter_seen)
        sampled[batch.rows] = _sampled_ranks(batch.unseen, batch.targets, negative_rng)
    return Ranks(full=Quality(ranks=full), sampled=Quality(ranks=sampled))


def rank_all(scorer: Scorer, split: LeaveOneOut, *, stage: Stage, seed: int = 0) -> Quality:
    """Rank every evaluated user's target among all unseen items, and no more than that.

    Args:
        scorer: Scores histories against the catalogue.
        split: The held-out data.
        stage: ``"validation"`` or ``"test"``.
        seed: Seed of the tie-break.

    Returns:
        ``evaluate(...).full``, without the cost of sampling negatives.
    """
    tie_rng = np.random.default_rng([seed, 0])
    full = np.empty(split.users.shape[0], dtype=np.int64)
    for batch in _scored(scorer, split, stage):
        full[batch.rows] = batch.ranks(tie_rng, filter_seen=True)
    return Quality(ranks=full)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """Scores of some users, padding taken out.

    Attributes:
        rows: (B,) int64, places in ``split.users``.
        targets: (B,) int64, item indices.
        scores: (B, V + 1) float32.
        unseen: The same without the items of the history, the target excepted.
    """

    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    scores: NDArray[np.float32]
    unseen: NDArray[np.float32]

    def ranks(self, rng: np.random.Generator, *, filter_seen: bool) -> NDArray[np.int64]:
        """Return the targets' ranks among all, or all unseen, items: (B,) int64."""
        return rank_of_target(self.unseen if filter_seen else self.scores, self.targets, rng)


def _scored(scorer: Scorer, split: LeaveOneOut, stage: Stage) -> Iterator[_Batch]:
    """Score every evaluated user once, users with histories of similar length together."""
    histories = [split.history(int(u), stage) for u in split.users]
    targets = np.array([split.target(int(u), stage) for u in split.users], dtype=np.int64)
    lengths = np.array([history.shape[0] for history in histories], dtype=np.int64)
    max_rows = max(1, CELLS_PER_BATCH // (split.dataset.n_items + 1))
    for rows in (
        bucket[i : i + max_rows]
        for bucket in bucket_by_length(lengths, TOKENS_PER_BATCH)
        for i in range(0, bucket.shape[0], max_rows)
    ):
        scores = scorer([histories[i] for i in rows]).copy()
        scores[:, 0] = -np.inf
        own = scores[np.arange(rows.shape[0]), targets[rows]]
        unseen = scores.copy()
        for row, i in enumerate(rows):
            unseen[row, histories[i]] = -np.inf
        unseen[np.arange(rows.shape[0]), targets[rows]] = own
        yield _Batch(rows=rows, targets=targets[rows], scores=scores, unseen=unseen)


def _sampled_ranks(
    unseen: NDArray[np.float32], targets: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rank each target among 99 unseen items drawn without replacement."""
    rows = np.arange(targets.shape[0])
    keys = rng.random(unseen.shape, dtype=np.float32)
    keys[~np.isfinite(unseen)] = np.inf
    keys[rows, targets] = -1.0
    n_columns = min(N_SAMPLED_NEGATIVES + 1, unseen.shape[1])
    columns = np.argpartition(keys, n_columns - 1, axis=1)[:, :n_columns]
    place = np.argmax(columns == targets[:, None], axis=1)
    return rank_of_target(np.take_along_axis(unseen, columns, axis=1), place, rng)


def popularity_scorer(split: LeaveOneOut) -> Scorer:
    """Return the scorer that knows only how often each item occurs in training."""
    counts = np.zeros(split.dataset.n_items + 1, dtype=np.float32)
    for events in split.train_sequences():
        np.add.at(counts, events, 1.0)

    def score(histories: list[NDArray[np.int32]]) -> NDArray[np.float32]:
        return np.tile(counts, (len(histories), 1))

    return score
