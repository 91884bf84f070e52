# SPDX-License-Identifier: Apache-2.0
"""Weighted k-means over rows, in blocks that fit memory; the same seed gives the same groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["kmeans", "nearest"]

_CELLS = 2**24  # distances held at once: 64 MiB of float32


def kmeans(
    points: NDArray[np.float32],
    n_groups: int,
    *,
    weights: NDArray[np.float64],
    n_rounds: int = 20,
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Group points around their groups' weighted means.

    Args:
        points: (n, W) float32.
        n_groups: K; at most n are made.
        weights: (n,) float64, above 0: how much a point's error counts.
        n_rounds: Of Lloyd's algorithm.
        seed: Seed of the first centres, which are drawn by weight.

    Returns:
        Centres (K, W) float32 and each point's group, (n,) int32.

    Raises:
        ConfigError: There are no points or groups, or a weight is not above 0.

    Source:
        Lloyd 1982. Our choice: a group that loses all points takes over the one with the
        largest weighted error.
    """
    if n_groups < 1 or len(points) < 1 or weights.shape != (len(points),):
        raise ConfigError(f"expected points, a weight each, and groups, found {points.shape}")
    if not (np.isfinite(weights).all() and weights.min() > 0):
        raise ConfigError("weights: expected finite ones above 0")
    rng = np.random.default_rng(seed)
    n_groups = min(n_groups, len(points))
    chosen = rng.choice(len(points), n_groups, replace=False, p=weights / weights.sum())
    centres = points[chosen].astype(np.float32)
    for _ in range(n_rounds):
        groups, errors = nearest(points, centres)
        centres = _means(points, groups, weights, centres)
        empty = np.flatnonzero(np.bincount(groups, minlength=n_groups) == 0)
        worst = np.argsort(-weights * errors, kind="stable")[: len(empty)]
        centres[empty] = points[worst]
    return centres, nearest(points, centres)[0]


def nearest(
    points: NDArray[np.float32], centres: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each point's nearest centre, (n,) int32, and squared distance, (n,) float32.

    Args:
        points: (n, W) float32.
        centres: (K, W) float32.
    """
    groups = np.empty(len(points), np.int32)
    errors = np.empty(len(points), np.float32)
    norms = (centres * centres).sum(axis=1)
    step = max(1, _CELLS // len(centres))
    for start in range(0, len(points), step):
        block = points[start : start + step]
        distances = norms - 2 * (block @ centres.T)
        groups[start : start + step] = distances.argmin(axis=1)
        own = distances.min(axis=1) + (block * block).sum(axis=1)
        errors[start : start + step] = np.maximum(own, 0)
    return groups, errors


def _means(
    points: NDArray[np.float32],
    groups: NDArray[np.int32],
    weights: NDArray[np.float64],
    before: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the groups' weighted means; an empty group keeps its centre."""
    n_groups = len(before)
    mass = np.bincount(groups, weights, minlength=n_groups)
    means = before.astype(np.float64)
    filled = mass > 0
    for column in range(points.shape[1]):
        sums = np.bincount(groups, weights * points[:, column], minlength=n_groups)
        means[filled, column] = sums[filled] / mass[filled]
    return means.astype(np.float32)
