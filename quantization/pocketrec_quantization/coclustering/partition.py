# SPDX-License-Identifier: Apache-2.0
"""A partition of users and items into co-clusters, the rows that it takes, and its objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.choices import read_choice
from pocketrec_quantization.coclustering.compiled import load_kernels
from pocketrec_quantization.coclustering.graph import Graph, read_edges
from pocketrec_quantization.coclustering.weighting import Weighting, WeightScheme

__all__ = ["Side", "inner_minus_volumes", "number_rows", "objective_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """Users, or items: which co-cluster and which row each has.

    Attributes:
        clusters: (N,) int32, the co-cluster of each, from 0; −1 for nodes without edges.
        labels: (N,) int32, the row of each, from 0.
        row_of_cluster: (K,) int32, −1 where a co-cluster has nobody on this side.
        n_rows: How many rows there are.
        default_row: Of entities that nothing is known about: the row that nodes without edges
            share if there are any, or the row that most have.
    """

    clusters: NDArray[np.int32]
    labels: NDArray[np.int32]
    row_of_cluster: NDArray[np.int32]
    n_rows: int
    default_row: int


def number_rows(clusters: NDArray[np.int32], n_clusters: int, *, shares_isolated: bool) -> Side:
    """Give every co-cluster with members on this side a row, in the order of co-clusters.

    Args:
        clusters: (N,) int32, −1 for nodes without edges.
        n_clusters: K.
        shares_isolated: Whether nodes without edges share one row, the last; otherwise each
            has a row of its own, after all others.
    """
    is_isolated = clusters < 0
    n_members = np.bincount(clusters[~is_isolated], minlength=n_clusters)
    row_of_cluster = np.where(n_members > 0, np.cumsum(n_members > 0) - 1, -1).astype(np.int32)
    n_rows = int(np.count_nonzero(n_members))
    n_isolated = int(np.count_nonzero(is_isolated))
    labels = np.empty(clusters.size, np.int32)
    labels[~is_isolated] = row_of_cluster[clusters[~is_isolated]]
    labels[is_isolated] = n_rows + (0 if shares_isolated else np.arange(n_isolated))
    return Side(
        clusters=clusters,
        labels=labels,
        row_of_cluster=row_of_cluster,
        n_rows=n_rows + (min(1, n_isolated) if shares_isolated else n_isolated),
        default_row=(
            n_rows if n_isolated and shares_isolated else int(row_of_cluster[n_members.argmax()])
        ),
    )


def inner_minus_volumes(
    graph: Graph, weights: NDArray[np.float32], labels: NDArray[np.int32], resolution: float
) -> float:
    """Return the objective of a labelling.

    Args:
        graph: U + V nodes.
        weights: (U + V, 2) float32.
        labels: (U + V,) int32; below 0 is none.
        resolution: gamma.
    """
    inner = load_kernels().inner_edges(graph.edges.arrays, labels[: graph.n_users], labels)
    is_in = labels >= 0
    users, items = (np.bincount(labels[is_in], side) for side in weights[is_in].T)
    return float(inner) - resolution * float(users @ items)


def objective_of(
    biadjacency: Any,
    user_clusters: NDArray[np.int32],
    item_clusters: NDArray[np.int32],
    *,
    resolution: float,
    user_weights: WeightScheme | str = WeightScheme.DEGREE,
    item_weights: WeightScheme | str = WeightScheme.DEGREE,
    is_weighted: bool = False,
) -> float:
    """Return the objective of any co-clustering, from whatever program.

    With the weights ``"degree"`` it is Barber's modularity times the number of edges.

    Args:
        biadjacency: (U, V) scipy sparse matrix.
        user_clusters: (U,) integers of any size, co-cluster of each user; below 0 is none.
        item_clusters: (V,) integers, co-cluster of each item, by the same numbers.
        resolution: gamma.
        user_weights: The scheme of users.
        item_weights: The scheme of items.
        is_weighted: Whether the matrix's values count.

    Raises:
        ConfigError: Shapes do not match, co-clusters are no integers, there is no such scheme,
            or the matrix is none, or holds no interaction.
        MissingExtraError: numba or scipy is not installed.

    Source:
        BACO (arXiv 2604.18351).
    """
    edges = read_edges(biadjacency, is_weighted=is_weighted)
    clusters = np.asarray(user_clusters), np.asarray(item_clusters)
    if tuple(side.shape for side in clusters) != tuple((n,) for n in biadjacency.shape):
        raise ConfigError(
            f"clusters: expected one per row and column of {biadjacency.shape}, got "
            f"{clusters[0].shape} and {clusters[1].shape}"
        )
    if any(side.dtype.kind not in "iu" for side in clusters):
        raise ConfigError(
            f"clusters: expected integers, got {clusters[0].dtype} and {clusters[1].dtype}"
        )
    if not edges.indices.size:
        raise ConfigError("biadjacency: expected at least one interaction, found none")
    labels, n_clusters = _from_nought(clusters)
    inner = load_kernels().inner_edges(edges.arrays, *labels)
    weighed = edges.data if edges.data.size else None
    degrees = (
        edges.degrees(),
        np.bincount(edges.indices, weighed, minlength=labels[1].size).astype(np.float64),
    )
    schemes = (
        read_choice(WeightScheme, user_weights, "user_weights"),
        read_choice(WeightScheme, item_weights, "item_weights"),
    )
    volumes = []
    for side, degree, scheme in zip(labels, degrees, schemes, strict=True):
        weights = Weighting.of(degree, scheme).weights(degree)
        volumes.append(np.bincount(side[side >= 0], weights[side >= 0], minlength=n_clusters))
    return float(inner) - resolution * float(volumes[0] @ volumes[1])


def _from_nought(
    clusters: tuple[NDArray[Any], NDArray[Any]],
) -> tuple[list[NDArray[np.int32]], int]:
    """Return labels from 0 without gaps, −1 where a label is below 0, and how many there are."""
    known = np.unique(np.concatenate([side[side >= 0] for side in clusters]))
    labels = [
        np.where(side >= 0, np.searchsorted(known, side), -1).astype(np.int32) for side in clusters
    ]
    return labels, known.size
