# SPDX-License-Identifier: Apache-2.0
"""The state of a backbone with attention: keys and values of the last events.

Row 0 of the cache belongs to the event that is being taken in, rows 1 to L-1 are a ring
of those before it. A step writes row 0 and reads all rows; afterwards row 0 is copied to
the row of the event that left the window. So all memory is allocated and bound once, a
step moves one row per block, and a step that fails has touched nothing that counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from pocketrec_device.session import SessionState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.backends.base import AttentionBackend
    from pocketrec_quantization.bundle import BackboneConfig

__all__ = ["AttentionState", "StateBuffers"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StateBuffers:
    """The memory that a state and a backend share; it stays in place for good.

    Args:
        x: (1, D) float32, the embedding of the event to take in.
        cache: (n_blocks, 2, L, D) float32, keys and values, heads side by side; row 0 is
            the event's own.
        bias: (n_blocks, 1, H, 1, L) float32, what attention adds for each row.
        h: (1, D) float32, the user's state after the event.
    """

    x: NDArray[np.float32]
    cache: NDArray[np.float32]
    bias: NDArray[np.float32]
    h: NDArray[np.float32]

    @classmethod
    def allocate(cls, backbone: BackboneConfig) -> StateBuffers:
        """Return buffers of zeros."""
        dim, window, n_blocks = backbone.embedding_dim, backbone.window, backbone.n_blocks
        return cls(
            x=np.zeros((1, dim), np.float32),
            cache=np.zeros((n_blocks, 2, window, dim), np.float32),
            bias=np.zeros((n_blocks, 1, backbone.n_heads, 1, window), np.float32),
            h=np.zeros((1, dim), np.float32),
        )


class AttentionState(SessionState):
    """Keys, values and user state of one history.

    Args:
        backend: What computes.
    """

    def __init__(self, backend: AttentionBackend) -> None:
        super().__init__(backend.backbone.embedding_dim)
        ring = backend.ring
        self._buffers = StateBuffers.allocate(backend.backbone)
        self._bound = backend.bind(self._buffers)
        self._takes_histories = backend.takes_histories
        self._ring = ring
        self._n_older = ring.window - 1
        self._older_bias = self._buffers.bias[:, 0, :, 0, 1:]
        self._buffers.bias[:, 0, :, 0, 0] = ring.own
        self._own_rows = self._buffers.cache[:, :, 0]
        self._slot = 1

    def reset(self) -> None:
        """See ``SessionState.reset``."""
        self._buffers.cache.fill(0)
        self._slot = 1
        self.n_events = 0
        self.h = self._h0

    def copy_from(self, other: Self) -> None:
        """See ``SessionState.copy_from``."""
        np.copyto(self._buffers.cache, other._buffers.cache)
        self._slot, self.n_events, self.h = other._slot, other.n_events, other.h

    def step(self, x: NDArray[np.float32]) -> None:
        """See ``SessionState.step``."""
        buffers = self._buffers
        buffers.x[0] = x
        if self._n_older:
            is_full = self.n_events >= self._n_older
            self._ring.write_older(self._older_bias, self._slot, is_full=is_full)
        self._bound.step()
        if self._n_older:
            buffers.cache[:, :, self._slot] = self._own_rows
            self._slot = self._slot + 1 if self._slot < self._n_older else 1
        self.n_events += 1
        self.h = buffers.h[0].copy()

    def _take_in_at_once(self, x: NDArray[np.float32]) -> int:
        if self.n_events or not self._takes_histories:
            return 0
        n_prefilled = min(len(x), self._ring.window)
        self._prefill(x[:n_prefilled])
        return n_prefilled

    def _prefill(self, x: NDArray[np.float32]) -> None:
        # A full window also fills row 0, whose event is the first to leave.
        row = 0 if len(x) == self._ring.window else 1
        self._bound.prefill(x, row)
        self._slot = row + len(x) if row + len(x) <= self._n_older else 1
        self.n_events = len(x)
        self.h = self._buffers.h[0].copy()
