# SPDX-License-Identifier: Apache-2.0
"""The running state of one history: ring buffers that a backend advances event by event.

Event number t (from 0) sits in slot t % L of two ring buffers, so a step writes one slot
and never moves the others. A step needs to know how many events ago each slot was
written; those L numbers are a window into an array made once:

    distance(p) = base[L-1-p : 2L-1-p],   p = t % L
    base = [L-1, ..., 1, L, L-1, ..., 1]       every slot written before
    base = [L-1, ..., 1, L, L,   ..., L]       slots from t on still empty

L stands for "masked": the slot is empty, or is about to be overwritten by this event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.backends.base import Backend
    from pocketrec_quantization.bundle import BackboneConfig

__all__ = ["SessionState", "distance_bases"]


def distance_bases(window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the two arrays that every ``distance`` is a slice of.

    Args:
        window: L, in events, from 1.

    Returns:
        ``filling``: (2L-1,) int64, while slots are still empty.
        ``full``: (2L-1,) int64, once every slot has been written.
    """
    down = np.arange(window - 1, 0, -1, dtype=np.int64)
    masked = np.full(1, window, np.int64)
    filling = np.concatenate([down, masked, np.full(window - 1, window, np.int64)])
    full = np.concatenate([down, masked, down])
    filling.setflags(write=False)
    full.setflags(write=False)
    return filling, full


class SessionState:
    """Keys, values and user state of one history; memory is fixed at construction.

    Not thread-safe: the runtime holds its lock around every call that changes it.

    Attributes:
        n_events: How many events were ever seen.
        h: (D,) float32, the user's state after the last event; replaced, never written
            in place, so a reader may keep it.
    """

    def __init__(self, backbone: BackboneConfig) -> None:
        self._window = backbone.window
        head_dim = backbone.embedding_dim // backbone.n_heads
        shape = (backbone.n_blocks, backbone.n_heads, backbone.window, head_dim)
        self._keys = np.zeros(shape, np.float32)
        self._values = np.zeros(shape, np.float32)
        self._filling, self._full = distance_bases(backbone.window)
        self._h0 = np.zeros(backbone.embedding_dim, np.float32)
        self.n_events = 0
        self.h: NDArray[np.float32] = self._h0

    def reset(self) -> None:
        """Forget every event."""
        self._keys.fill(0)
        self._values.fill(0)
        self.n_events = 0
        self.h = self._h0

    def distance(self) -> NDArray[np.int64]:
        """(L,) int64, a view: how many events ago each slot was written; L = masked."""
        base = self._filling if self.n_events < self._window else self._full
        start = self._window - 1 - self.n_events % self._window
        return base[start : start + self._window]

    def observe(self, backend: Backend, x: NDArray[np.float32]) -> None:
        """Take in events, oldest first: at once into an empty state, else one by one.

        The result does not depend on how a history is cut into calls.

        Args:
            backend: What computes.
            x: (T, D) float32, embeddings of the events; T may exceed L.

        Raises:
            BackendError: Inference failed; the state is as after the last good event.
        """
        n_prefilled = 0
        if self.n_events == 0 and len(x) > 1:
            n_prefilled = min(len(x), self._window)
            self._prefill(backend, x[:n_prefilled])
        for event in x[n_prefilled:]:
            self._step(backend, event)

    def _prefill(self, backend: Backend, x: NDArray[np.float32]) -> None:
        keys, values, h = backend.prefill(x)
        self._keys[:, :, : len(x)] = keys
        self._values[:, :, : len(x)] = values
        self.n_events, self.h = len(x), h

    def _step(self, backend: Backend, x: NDArray[np.float32]) -> None:
        new_key, new_value, h = backend.step(x, self._keys, self._values, self.distance())
        slot = self.n_events % self._window
        self._keys[:, :, slot] = new_key
        self._values[:, :, slot] = new_value
        self.n_events, self.h = self.n_events + 1, h
