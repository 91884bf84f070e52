# SPDX-License-Identifier: Apache-2.0
"""The state of a backbone that sees a window only: the last L events themselves.

The events are kept apart from the window that a backend reads. A step writes the window
anew, computes, and keeps it as the events; so a step that fails has touched nothing that
counts, and any number of events is taken in with one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from pocketrec_device.session import SessionState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.backends.base import WindowBackend
    from pocketrec_quantization.bundle import BackboneConfig

__all__ = ["WindowBuffers", "WindowState"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowBuffers:
    """The memory that a state and a backend share; it stays in place for good.

    Args:
        window: (L, D) float32, embeddings of the last events, oldest first; zeros before
            the first one.
        h: (1, D) float32, the user's state after the last event.
    """

    window: NDArray[np.float32]
    h: NDArray[np.float32]

    @classmethod
    def allocate(cls, backbone: BackboneConfig) -> WindowBuffers:
        """Return buffers of zeros."""
        dim = backbone.embedding_dim
        return cls(
            window=np.zeros((backbone.window, dim), np.float32),
            h=np.zeros((1, dim), np.float32),
        )


class WindowState(SessionState):
    """Last events and user state of one history.

    Args:
        backend: What computes.
    """

    def __init__(self, backend: WindowBackend) -> None:
        super().__init__(backend.backbone.embedding_dim)
        self._buffers = WindowBuffers.allocate(backend.backbone)
        self._bound = backend.bind(self._buffers)
        self._events = np.zeros_like(self._buffers.window)

    def reset(self) -> None:
        """See ``SessionState.reset``."""
        self._events.fill(0)
        self.n_events = 0
        self.h = self._h0

    def copy_from(self, other: Self) -> None:
        """See ``SessionState.copy_from``."""
        np.copyto(self._events, other._events)
        self.n_events, self.h = other.n_events, other.h

    def step(self, x: NDArray[np.float32]) -> None:
        """See ``SessionState.step``."""
        window = self._buffers.window
        window[:-1] = self._events[1:]
        window[-1] = x
        self._compute(1)

    def _take_in_at_once(self, x: NDArray[np.float32]) -> int:
        window = self._buffers.window
        recent = x[-len(window) :]
        n_kept = len(window) - len(recent)
        window[:n_kept] = self._events[len(recent) :]
        window[n_kept:] = recent
        self._compute(len(x))
        return len(x)

    def _compute(self, n_new: int) -> None:
        """Compute the state of the window, and keep it with ``n_new`` events more."""
        self._bound.step()
        np.copyto(self._events, self._buffers.window)
        self.n_events += n_new
        self.h = self._buffers.h[0].copy()
