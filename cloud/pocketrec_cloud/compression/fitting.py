# SPDX-License-Identifier: Apache-2.0
"""Fits a table of codebooks to trained embeddings: one codebook after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError
from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.kmeans import kmeans
from pocketrec_quantization.quantizer import quantize_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.compression.layout import CodebookShape, TableLayout
    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = ["fit_table", "item_weights"]


def item_weights(split: LeaveOneOut) -> NDArray[np.float64]:
    """Return how much an item's error counts: one more than its training events, (V,) float64.

    Args:
        split: The interactions.

    Source:
        Our choice; what is shown often is compared often.
    """
    counts = np.ones(split.dataset.n_items + 1, np.float64)
    for events in split.train_sequences():
        np.add.at(counts, events, 1.0)
    return counts[1:]


def fit_table(
    layout: TableLayout,
    embeddings: NDArray[np.float32],
    *,
    weights: NDArray[np.float64],
    labels: NDArray[np.int32] | None = None,
    seed: int = 0,
) -> CodebookEmbedding:
    """Return a table close to trained embeddings.

    Each codebook takes its columns of what those before it have left: items in groups of
    k-means, a group's row its weighted mean. A codebook with a row for every item takes
    each as it is.

    Args:
        layout: Shapes of the codebooks.
        embeddings: (V + 1, D) float32, row 0 is padding.
        weights: (V,) float64, above 0: how much an item's error counts.
        labels: (V,) int32, groups of items for the first codebook in place of k-means,
            numbered from 0 and no more of them than it has rows.
        seed: Of k-means.

    Raises:
        ConfigError: The arrays do not fit together or the layout.
    """
    n_items = len(embeddings) - 1
    if embeddings.shape[1] != layout.embedding_dim or weights.shape != (n_items,):
        raise ConfigError(
            f"expected embeddings of {layout.embedding_dim} columns and a weight per item, "
            f"found {embeddings.shape} and {weights.shape}"
        )
    left = embeddings[1:].astype(np.float32)
    numbers = np.zeros((n_items + 1, len(layout.codebooks)), np.int32)
    rows: list[NDArray[np.float32]] = []
    for place, book in enumerate(layout.codebooks):
        columns = np.ascontiguousarray(left[:, book.begin : book.end])
        given = labels if place == 0 else None
        groups, means = _group(columns, book, weights, given, seed + place)
        padded = np.zeros((book.n_rows, book.width), np.float32)
        padded[1 : len(means) + 1] = means
        rows.append(_rounded(padded, book))
        numbers[1:, place] = groups + 1
        left[:, book.begin : book.end] -= rows[-1][numbers[1:, place]]
    return CodebookEmbedding(layout, numbers, rows)


def _group(
    columns: NDArray[np.float32],
    book: CodebookShape,
    weights: NDArray[np.float64],
    labels: NDArray[np.int32] | None,
    seed: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each item's group and the groups' means."""
    n_items, n_groups = len(columns), book.n_rows - 1
    if labels is not None:
        return labels, _means_of(columns, labels, weights, n_groups)
    if n_groups == n_items:
        return np.arange(n_items, dtype=np.int32), columns
    means, groups = kmeans(columns, n_groups, weights=weights, seed=seed)
    return groups, means


def _rounded(rows: NDArray[np.float32], book: CodebookShape) -> NDArray[np.float32]:
    """Return codes times scales, the scales such that the squared error is least."""
    shape = rows.shape if book.has_row_scales else (1, rows.size)
    codes, scales = quantize_rows(rows.reshape(shape), book.bits)
    rounded: NDArray[np.float32] = (codes * scales[:, None]).astype(np.float32)
    return rounded.reshape(rows.shape)


def _means_of(
    columns: NDArray[np.float32],
    labels: NDArray[np.int32],
    weights: NDArray[np.float64],
    n_groups: int,
) -> NDArray[np.float32]:
    if labels.shape != weights.shape or labels.min() < 0 or labels.max() >= n_groups:
        raise ConfigError(
            f"labels: expected one per item, 0..{n_groups - 1}, found {labels.shape} up to "
            f"{labels.max()}"
        )
    mass = np.maximum(np.bincount(labels, weights, minlength=n_groups), np.finfo(float).tiny)
    sums = [np.bincount(labels, weights * column, minlength=n_groups) for column in columns.T]
    means: NDArray[np.float32] = (np.stack(sums, axis=1) / mass[:, None]).astype(np.float32)
    return means
