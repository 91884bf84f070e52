# SPDX-License-Identifier: Apache-2.0
"""Ways to share rows, from train interactions alone or from trained vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pocketrec_cloud.collaborative.assignment import CodebookShape, RowAssignment
from pocketrec_cloud.collaborative.codebook_table import cluster_means

__all__ = [
    "Clusters",
    "double_hashes",
    "frequency_hash",
    "k_means",
    "louvain",
    "product_quantize",
    "random_hash",
    "renumber",
    "residual_k_means",
    "secondary_labels",
    "spectral",
]

Labels = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clusters:
    """Labels that users and items share.

    Attributes:
        users: (U,) int64.
        items: (V,) int64.
    """

    users: Labels
    items: Labels

    @property
    def n_rows(self) -> int:
        """Labels that users have, and labels that items have, added."""
        return int(np.unique(self.users).size + np.unique(self.items).size)


def random_hash(n_entities: int, n_rows: int, rng: np.random.Generator) -> Labels:
    """Return a row at random for each entity: (N,) int64."""
    return rng.integers(0, n_rows, n_entities)


def frequency_hash(degrees: Labels, n_rows: int, rng: np.random.Generator) -> Labels:
    """Return rows of their own for the most frequent, and a shared one at random for the rest.

    Half of the rows are each one entity's.

    Args:
        degrees: (N,) int64, interactions of each entity.
        n_rows: K.
        rng: Source of the shared rows.
    """
    own = n_rows // 2
    labels = rng.integers(own, n_rows, degrees.size)
    labels[np.argsort(-degrees, kind="stable")[:own]] = np.arange(own)
    return labels


def double_hashes(n_entities: int, n_rows: int, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Return two rows at random for each entity: (N,) int64 each."""
    first, second = (rng.integers(0, n_rows, n_entities) for _ in range(2))
    return first, second


def louvain(train: Any, *, resolution: float, seed: int) -> Clusters:
    """Return scikit-network's clusters of the bipartite graph.

    Args:
        train: (U, V) CSR.
        resolution: Weight of the balance; 200 is GraphHash's.
        seed: Of the order of nodes.

    Source:
        Wu et al. 2025 (GraphHash).
    """
    from sknetwork.clustering import Louvain

    found = Louvain(resolution=resolution, random_state=seed).fit(train, force_bipartite=True)
    return Clusters(
        users=found.labels_row_.astype(np.int64), items=found.labels_col_.astype(np.int64)
    )


def spectral(train: Any, *, n_clusters: int, seed: int) -> Clusters:
    """Return scikit-learn's spectral co-clusters, with k-means in small batches.

    Entities without interactions share a cluster of their own: the method divides by degrees.

    Args:
        train: (U, V) CSR.
        n_clusters: Of users and items together.
        seed: Of the k-means.

    Source:
        Dhillon 2001.
    """
    from sklearn.cluster import SpectralCoclustering

    users = np.flatnonzero(np.diff(train.indptr))
    items = np.unique(train.indices)
    model = SpectralCoclustering(
        n_clusters=n_clusters, mini_batch=True, n_init=1, random_state=seed
    ).fit(train[users][:, items])
    labels = [np.full(size, n_clusters, np.int64) for size in train.shape]
    labels[0][users], labels[1][items] = model.row_labels_, model.column_labels_
    return Clusters(users=labels[0], items=labels[1])


def secondary_labels(
    train: Any, own: Labels, others: Labels, *, balance: float, degrees: Any = None
) -> Labels:
    """Return a second label for the rows of a matrix, chosen with all labels frozen.

    Candidates are labels of a row's neighbours that another row has and that differ from the
    own one. The one of largest ``edges - balance * weight * volume`` is taken, the smallest on
    a tie; a row without a candidate keeps its own.

    Args:
        train: (N, O) CSR.
        own: (N,) int64.
        others: (O,) int64, labels of the columns.
        balance: Weight of the volume; the resolution over the number of edges.
        degrees: (N,) weights of the rows; None takes degrees.

    Source:
        BACO (arXiv 2604.18351), secondary user clusters.
    """
    n_labels = int(max(own.max(), others.max())) + 1
    columns = np.arange(others.size)
    members = sparse.csr_matrix(
        (np.ones(others.size), (columns, others)), shape=(others.size, n_labels)
    )
    edges = (train @ members).tocsr()
    weight = np.asarray(train.sum(1)).ravel() if degrees is None else degrees
    volume = np.bincount(others, weights=np.asarray(train.sum(0)).ravel(), minlength=n_labels)
    owned = np.bincount(own, minlength=n_labels) > 0
    rows, labels = np.repeat(np.arange(own.size), np.diff(edges.indptr)), edges.indices
    is_candidate = owned[labels] & (labels != own[rows])
    rows, labels = rows[is_candidate], labels[is_candidate]
    scores = edges.data[is_candidate] - balance * weight[rows] * volume[labels]
    order = np.lexsort((labels, -scores, rows))
    found = own.copy()
    winners, first = np.unique(rows[order], return_index=True)
    found[winners] = labels[order][first]
    return found


def renumber(labels: Labels, *more: Labels) -> list[Labels]:
    """Return labels from 0 without gaps, and other labels out of the same ones alike.

    Args:
        labels: (N,) int64.
        more: Others, each with labels that occur in the first.
    """
    kept, first = np.unique(labels, return_inverse=True)
    return [first.astype(np.int64), *(np.searchsorted(kept, other) for other in more)]


def k_means(vectors: Vectors, n_rows: int, *, seed: int) -> tuple[Labels, Vectors]:
    """Return labels and means of a k-means of vectors.

    Args:
        vectors: (N, W) float32.
        n_rows: K.
        seed: Of the first means.

    Returns:
        (N,) int64 and (K, W) float32.
    """
    import faiss

    model = faiss.Kmeans(vectors.shape[1], n_rows, niter=10, seed=seed, min_points_per_centroid=1)
    model.train(np.ascontiguousarray(vectors))
    labels = model.index.search(np.ascontiguousarray(vectors), 1)[1][:, 0].astype(np.int64)
    return labels, cluster_means(vectors, labels, n_rows)


def residual_k_means(
    vectors: Vectors, rows: tuple[int, ...], *, seed: int
) -> tuple[RowAssignment, list[Vectors]]:
    """Return codebooks over all columns, each of what the ones before leave.

    Args:
        vectors: (N, D) float32.
        rows: Rows of each codebook.
        seed: Of the first means.

    Returns:
        The assignment, whose vectors are sums, and first values.
    """
    left, labels, values = vectors.copy(), [], []
    for n_rows in rows:
        found, means = k_means(left, n_rows, seed=seed)
        labels.append(found)
        values.append(means)
        left -= means[found]
    shapes = tuple(CodebookShape(n_rows=n, begin=0, width=vectors.shape[1]) for n in rows)
    assignment = RowAssignment(
        rows=np.stack(labels, axis=1),
        codebooks=shapes,
        codebook_of=tuple(range(len(rows))),
        weights=(1.0,) * len(rows),
    )
    return assignment, values


def product_quantize(
    vectors: Vectors, n_parts: int, *, n_rows: int = 256, seed: int
) -> tuple[RowAssignment, list[Vectors]]:
    """Return codebooks over disjoint columns of equal width.

    Args:
        vectors: (N, D) float32.
        n_parts: How many, a divisor of D.
        n_rows: Rows of each codebook.
        seed: Of the first means.

    Returns:
        The assignment and first values.

    Source:
        Jégou et al. 2011 (product quantization).
    """
    width = vectors.shape[1] // n_parts
    parts = [
        k_means(vectors[:, begin : begin + width], n_rows, seed=seed)
        for begin in range(0, vectors.shape[1], width)
    ]
    assignment = RowAssignment(
        rows=np.stack([labels for labels, _ in parts], axis=1),
        codebooks=tuple(
            CodebookShape(n_rows=n_rows, begin=number * width, width=width)
            for number in range(n_parts)
        ),
        codebook_of=tuple(range(n_parts)),
        weights=(1.0,) * n_parts,
    )
    return assignment, [means for _, means in parts]
