# SPDX-License-Identifier: Apache-2.0
"""Ranking quality from ranks, with intervals: HR@k, NDCG@k, bootstrap over users.

A rank counts the items scored above the target, so 0 is best. Ties are broken at
random: quantized scores collide often, and an order that favours the target on a
tie would reward coarse models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Interval",
    "bootstrap_mean",
    "hit_rate",
    "ndcg",
    "paired_bootstrap",
    "rank_of_target",
]

_CELLS_AT_ONCE = 2**23  # resamples times users held in memory: 64 MiB of int64, twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


def rank_of_target(
    scores: NDArray[np.float32], targets: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rank each row's target among all columns, ties broken at random.

    Args:
        scores: (B, V) float32, no NaN; minus infinity takes a column out of the ranking.
        targets: (B,) integer, the column of each row's target.
        rng: Source of the tie-break.

    Returns:
        (B,) int64, the number of columns placed above the target.

    Raises:
        ConfigError: A target's own score is not finite, or any score is NaN.
    """
    own = scores[np.arange(scores.shape[0]), targets][:, None]
    if not np.all(np.isfinite(own)):
        row = int(np.flatnonzero(~np.isfinite(own[:, 0]))[0])
        raise ConfigError(f"expected a finite score for every target, row {row} has {own[row, 0]}")
    if np.isnan(scores).any():  # it would compare as below every target, and flatter the model
        raise ConfigError("expected scores to be numbers, found NaN")
    above = np.sum(scores > own, axis=1, dtype=np.int64)
    tied = np.sum(scores == own, axis=1, dtype=np.int64) - 1
    ranks: NDArray[np.int64] = above + rng.integers(0, tied + 1)
    return ranks


def hit_rate(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return 1 per row whose target is among the first ``k``, else 0: (B,) float64."""
    return (ranks < k).astype(np.float64)


def ndcg(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return 1 / log2(rank + 2) within the first ``k``, else 0: (B,) float64.

    With a single target the ideal gain is 1, so this is the normalised gain.
    """
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def bootstrap_mean(
    values: NDArray[np.float64], *, seed: int = 0, n_resamples: int = 1000
) -> Interval:
    """Return the mean over users with its 95 % interval.

    Args:
        values: (U,) float64, one value per user.
        seed: Seed of the resampling.
        n_resamples: How many resamples.

    Returns:
        The mean and the 2.5 and 97.5 percentiles of the resampled means.

    Raises:
        ConfigError: ``values`` is empty.
    """
    if values.size == 0:
        raise ConfigError("expected at least one value to average, found none")
    rng = np.random.default_rng(seed)
    shares = np.full(values.size, 1 / values.size)
    at_once = max(1, _CELLS_AT_ONCE // values.size)
    means = [
        rng.multinomial(values.size, shares, size=min(at_once, n_resamples - done)) @ values
        for done in range(0, n_resamples, at_once)
    ]
    low, high = np.percentile(np.concatenate(means) / values.size, [2.5, 97.5])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def paired_bootstrap(
    values: NDArray[np.float64], baseline: NDArray[np.float64], *, seed: int = 0
) -> Interval:
    """Return the mean difference ``values - baseline`` over the same users.

    Args:
        values: (U,) float64.
        baseline: (U,) float64, the same users in the same order.
        seed: Seed of the resampling.

    Returns:
        The mean difference with its 95 % interval.

    Raises:
        ConfigError: The two differ in length.
    """
    if values.shape != baseline.shape:
        raise ConfigError(
            f"expected the same users on both sides, found {values.size} and {baseline.size}"
        )
    return bootstrap_mean(values - baseline, seed=seed)
