# SPDX-License-Identifier: Apache-2.0
"""Moves, then aggregation, then moves of whole clusters: the same objective and kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.coclustering.compiled import load_kernels
from pocketrec_quantization.coclustering.graph import Edges
from pocketrec_quantization.coclustering.propagation import Labelling, Moves, sweeps

__all__ = ["compact", "multilevel_sweeps"]


def multilevel_sweeps(
    labelling: Labelling, moves: Moves, rng: np.random.Generator
) -> tuple[int, float]:
    """Move nodes, then clusters, then clusters of clusters, and at last nodes again.

    Args:
        labelling: Its labels change.
        moves: How nodes move; the same on every level.
        rng: Draws the orders.

    Returns:
        How many sweeps there were on all levels, and what the objective gained by them.

    Source:
        Louvain (Blondel et al. 2008), for the objective of BACO; the moves at the end are our
        choice.
    """
    n_sweeps, total = sweeps(labelling, moves, rng)
    level, finer, n_labels = 0, labelling, compact(labelling.labels)
    while n_labels < finer.edges.n_nodes:
        level, finer = level + 1, _aggregated(finer, n_labels)
        n_more, gain = sweeps(finer, moves, rng, level=level)
        n_sweeps, total = n_sweeps + n_more, total + gain
        n_labels = compact(finer.labels)
        labelling.labels[:] = finer.labels[labelling.labels]
    n_more, gain = sweeps(labelling, moves, rng)
    return n_sweeps + n_more, total + gain


def compact(labels: NDArray[np.int32]) -> int:
    """Number labels from 0 on, without gaps, in their order; return how many there are.

    Args:
        labels: (N,) int32, from 0 to N − 1; changed in place.
    """
    is_used = np.zeros(labels.size, np.bool_)
    is_used[labels] = True
    labels[:] = (np.cumsum(is_used, dtype=np.int32) - 1)[labels]
    return int(np.count_nonzero(is_used))


def _aggregated(finer: Labelling, n_labels: int) -> Labelling:
    """Return the graph whose nodes are the labels; each has a label of its own."""
    labels, edges = finer.labels, finer.edges
    starts = np.concatenate(([0], np.cumsum(np.bincount(labels, minlength=n_labels))))
    coarse = Edges(
        offsets=np.empty(n_labels + 1, np.int64),
        indices=np.empty(edges.indices.size, np.int32),
        data=np.empty(edges.indices.size, np.float32),
    )
    n_written = load_kernels().aggregate(
        edges.arrays,
        labels,
        np.argsort(labels, kind="stable").astype(np.int32),
        starts.astype(np.int64),
        (np.zeros((n_labels, 1)), np.empty(n_labels + 1, np.int32)),
        coarse.arrays,
    )
    sides = [np.bincount(labels, side, minlength=n_labels) for side in finer.weights.T]
    return Labelling(
        edges=Edges(
            offsets=coarse.offsets,
            indices=coarse.indices[:n_written].copy(),
            data=coarse.data[:n_written].copy(),
        ),
        weights=np.stack(sides, axis=1).astype(np.float32),
        labels=np.arange(n_labels, dtype=np.int32),
    )
