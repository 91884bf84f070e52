# SPDX-License-Identifier: Apache-2.0
"""Turns histories into batches of similar length, so that little is spent on padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["bucket_by_length", "pad", "training_batches", "training_windows"]


def pad(rows: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    """Stack rows of unequal length, zeros at their ends: (B, max T) int64."""
    out = np.zeros((len(rows), max(row.shape[0] for row in rows)), dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : row.shape[0]] = row
    return torch.from_numpy(out)


def bucket_by_length(
    lengths: NDArray[np.int64], tokens_per_batch: int, rng: np.random.Generator | None = None
) -> list[NDArray[np.int64]]:
    """Group rows of similar length until padding included they fill a batch.

    Args:
        lengths: (n,) int64, at least 1 each.
        tokens_per_batch: Upper bound on rows times longest row; a longer single row
            still gets a batch of its own.
        rng: Shuffles rows of equal length and the batches; file order when absent.

    Returns:
        Row numbers, one array per batch; every row appears once.
    """
    order = np.arange(lengths.shape[0]) if rng is None else rng.permutation(lengths.shape[0])
    order = order[np.argsort(lengths[order], kind="stable")]
    batches: list[NDArray[np.int64]] = []
    start = 0
    for end in range(1, order.shape[0] + 1):
        full = end == order.shape[0] or (end - start + 1) * lengths[order[end]] > tokens_per_batch
        if full:
            batches.append(order[start:end])
            start = end
    if rng is not None:
        rng.shuffle(batches)
    return batches


def training_windows(
    sequences: Sequence[NDArray[np.int32]], window: int, rng: np.random.Generator
) -> list[NDArray[np.int32]]:
    """Cut one stretch of at most ``window`` + 1 events out of every history.

    A history that fits is taken whole; a longer one contributes a stretch at a random
    place, so that over the epochs all of it is trained on. Our choice.

    Args:
        sequences: Training events per user, oldest first.
        window: L.
        rng: Source of the places.

    Returns:
        Stretches of at least 2 events: inputs are all but the last, targets all but the first.
    """
    cut = []
    for events in sequences:
        spare = events.shape[0] - (window + 1)
        start = int(rng.integers(0, spare + 1)) if spare > 0 else 0
        if events.shape[0] >= 2:
            cut.append(events[start : start + window + 1])
    return cut


def training_batches(
    sequences: Sequence[NDArray[np.int32]],
    *,
    window: int,
    tokens_per_batch: int,
    rng: np.random.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch of next-event prediction.

    Args:
        sequences: Training events per user, oldest first.
        window: L.
        tokens_per_batch: Bound on the size of a batch, padding included.
        rng: Source of places and order.

    Yields:
        Inputs and targets, (B, T) int64 each, 0 where there is nothing.
    """
    cut = training_windows(sequences, window, rng)
    lengths = np.array([row.shape[0] - 1 for row in cut], dtype=np.int64)
    for rows in bucket_by_length(lengths, tokens_per_batch, rng):
        yield pad([cut[i][:-1] for i in rows]), pad([cut[i][1:] for i in rows])
