# SPDX-License-Identifier: Apache-2.0
"""Cuts histories in two: a plan is made from the events before, and judged by those after.

So no plan ever saw an event that it is trained to predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pocketrec_cloud.batches import bucket_by_length, pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["CutBatch", "cut_batches", "cut_history"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutBatch:
    """B users, padded with zeros at the ends.

    Attributes:
        past: (B, T') int64, the events before the cut that the extractor reads.
        past_lengths: (B,) int64.
        inputs: (B, T) int64, the events that the backbone reads.
        targets: (B, T) int64, the event after each of them; 0 before the cut.
    """

    past: Tensor
    past_lengths: Tensor
    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> CutBatch:
        """Return the same batch elsewhere."""
        return CutBatch(
            past=self.past.to(device),
            past_lengths=self.past_lengths.to(device),
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
        )


def cut_history(
    events: NDArray[np.int32], cut: int, *, window: int, n_targets: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return what the backbone reads around a cut, and what it is to predict.

    Args:
        events: (T_u,) int32, oldest first.
        cut: How many events lie before it, 1..T_u - 1.
        window: L.
        n_targets: Events after the cut to predict, at most.

    Returns:
        Inputs and targets, (T,) int32 each with T <= L; targets before the cut are 0.
    """
    end = min(events.shape[0], cut + min(n_targets, window))
    start = max(0, end - 1 - window)
    inputs, targets = events[start : end - 1], events[start + 1 : end].copy()
    targets[: cut - start - 1] = 0
    return inputs, targets


def cut_batches(
    sequences: Sequence[NDArray[np.int32]],
    *,
    window: int,
    extract_window: int,
    n_targets: int,
    tokens_per_batch: int,
    rng: np.random.Generator,
) -> Iterator[CutBatch]:
    """Yield one epoch: every history once, cut at a random place.

    Args:
        sequences: Training events per user, oldest first.
        window: L, of the backbone.
        extract_window: Events that the extractor reads at most.
        n_targets: Events after the cut to predict, at most.
        tokens_per_batch: Bound on users times longest history, of either kind.
        rng: Source of places and order.
    """
    long_enough = [events for events in sequences if events.shape[0] >= 2]
    cuts = [int(rng.integers(1, events.shape[0])) for events in long_enough]
    pairs = [
        cut_history(events, cut, window=window, n_targets=n_targets)
        for events, cut in zip(long_enough, cuts, strict=True)
    ]
    pasts = [
        events[max(0, cut - extract_window) : cut]
        for events, cut in zip(long_enough, cuts, strict=True)
    ]
    lengths = np.array(
        [max(past.shape[0], pair[0].shape[0]) for past, pair in zip(pasts, pairs, strict=True)],
        dtype=np.int64,
    )
    for rows in bucket_by_length(lengths, tokens_per_batch, rng):
        yield CutBatch(
            past=pad([pasts[i] for i in rows]),
            past_lengths=torch.tensor([pasts[i].shape[0] for i in rows]),
            inputs=pad([pairs[i][0] for i in rows]),
            targets=pad([pairs[i][1] for i in rows]),
        )
