# SPDX-License-Identifier: Apache-2.0
"""What attention adds to its logits: a learned number per head and distance, or a mask.

The graphs of a bundle know nothing about positions. Whoever runs them keeps the cache of
keys and values, knows which event lies in which row, and supplies the bias that says so.
``docs/format.md`` §7.4.

A step attends over L rows. Row 0 is the event itself; rows 1 to L-1 are a ring of the
events before it, and the event moves to row ``slot`` of the ring once the step is done.
How far back each row lies depends on ``slot`` alone, so the biases of a step are a window
into an array made once::

    distance(row) = (slot - row - 1) mod (L-1) + 1          rows 1..L-1
    bias(rows)    = base[..., L-1-slot : 2L-2-slot]

Source: relative positions instead of absolute ones, and the ring, are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["HIDDEN", "RingBias", "prefill_bias", "stack_relative_bias"]

HIDDEN = np.float32(-np.inf)
"""The bias of a row that must not be seen."""


def stack_relative_bias(
    dense: Mapping[str, NDArray[np.float32]], n_blocks: int
) -> NDArray[np.float32]:
    """Return the learned biases of all blocks, (n_blocks, H, L) float32.

    Args:
        dense: Dense tensors by name; those named ``blocks.<i>.relative_bias`` are read.
        n_blocks: How many blocks there are.

    Raises:
        KeyError: A block has none.
    """
    return np.stack([dense[f"blocks.{block}.relative_bias"] for block in range(n_blocks)])


def prefill_bias(relative_bias: NDArray[np.float32], n_events: int) -> NDArray[np.float32]:
    """Return the causal bias of a whole history.

    Args:
        relative_bias: (..., L) float32, by distance.
        n_events: T, from 1; may exceed L.

    Returns:
        (..., T, T) float32: entry (t, s) is the bias at distance t - s, hidden where that
        is negative or at least L.
    """
    reach = min(n_events, relative_bias.shape[-1])
    padded = np.full((*relative_bias.shape[:-1], 2 * n_events - 1), HIDDEN, np.float32)
    padded[..., n_events - reach : n_events] = relative_bias[..., reach - 1 :: -1]
    # Row t is this array from position T-1-t on.
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_events, axis=-1)
    return np.ascontiguousarray(windows[..., ::-1, :])


class RingBias:
    """The biases of steps over a ring of L-1 earlier events.

    Args:
        relative_bias: (n_blocks, H, L) float32, by distance.
    """

    def __init__(self, relative_bias: NDArray[np.float32]) -> None:
        self.window = int(relative_bias.shape[-1])
        self.own = np.ascontiguousarray(relative_bias[..., 0])
        n_older = self.window - 1
        before, after = np.arange(n_older - 1, 0, -1), np.arange(n_older, 0, -1)
        self._full = relative_bias[..., np.concatenate([before, after]).astype(np.int64)]
        self._filling = self._full.copy()
        self._filling[..., len(before) :] = HIDDEN

    def write(self, out: NDArray[np.float32], slot: int, *, is_full: bool) -> None:
        """Write the biases of one step.

        Args:
            out: (n_blocks, H, L) float32, any strides; row 0 is the event itself.
            slot: The row, 1..L-1, that the event moves to after the step; not read if L
                is 1.
            is_full: Whether every row of the ring holds an event; otherwise those from
                ``slot`` on are empty.
        """
        out[..., 0] = self.own
        self.write_older(out[..., 1:], slot, is_full=is_full)

    def write_older(self, out: NDArray[np.float32], slot: int, *, is_full: bool) -> None:
        """As ``write``, for rows 1..L-1 only: (n_blocks, H, L-1)."""
        base = self._full if is_full else self._filling
        start = self.window - 1 - slot
        out[...] = base[..., start : start + self.window - 1]
