# SPDX-License-Identifier: Apache-2.0
"""Second co-clusters of users and items, and the first ones of newcomers: frozen labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.coclustering.compiled import load_kernels
from pocketrec_quantization.coclustering.graph import Edges

__all__ = ["choose_clusters"]


def choose_clusters(
    edges: Edges,
    weights: NDArray[np.float64],
    *,
    volumes: NDArray[np.float64],
    neighbours: NDArray[np.int32],
    may_have: NDArray[np.bool_],
    excluded: NDArray[np.int32],
    resolution: float,
) -> NDArray[np.int32]:
    """Return the co-cluster of each node's neighbours where it would score best.

    The score is that of a move: edges into the co-cluster, minus resolution · weight · volume.

    Args:
        edges: From N nodes to their neighbours, numbered on their own.
        weights: (N,) float64, of the nodes.
        volumes: (K,) float64, of each co-cluster on the neighbours' side.
        neighbours: (neighbours,) int32, their co-clusters; −1 is none.
        may_have: (K,) bool, the co-clusters to choose among.
        excluded: (N,) int32, one that a node cannot have, such as its first; −1 is none.
        resolution: gamma.

    Returns:
        (N,) int32, −1 where there is none. Ties go to the smallest.

    Source:
        BACO (arXiv 2604.18351), secondary user clusters; the same for items is our choice.
    """
    n_clusters = volumes.size
    best = np.empty(edges.n_nodes, np.int32)
    load_kernels().best_labels(
        edges.arrays,
        weights,
        volumes,
        neighbours,
        may_have,
        excluded,
        (np.zeros((n_clusters, 1)), np.empty(n_clusters + 1, np.int32)),
        resolution,
        best,
    )
    return best
