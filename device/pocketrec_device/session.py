# SPDX-License-Identifier: Apache-2.0
"""The running state of one history, which a backend advances event by event.

What is remembered of the history depends on the backbone: ``attention_state`` keeps keys
and values, ``window_state`` the last events. Memory is allocated and bound once, and a step
that fails has touched nothing that counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import numpy as np

from pocketrec.errors import BackendError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SessionState"]


class SessionState(ABC):
    """Memory and user state of one history; ``Backend.new_state`` makes it.

    Not thread-safe: the runtime holds its lock around every call that changes it.

    Args:
        embedding_dim: D.

    Attributes:
        n_events: How many events were ever seen.
        h: (D,) float32, the user's state after the last event; replaced, never written
            in place, so a reader may keep it.
    """

    def __init__(self, embedding_dim: int) -> None:
        self._h0 = np.zeros(embedding_dim, np.float32)
        self.n_events = 0
        self.h: NDArray[np.float32] = self._h0

    @abstractmethod
    def reset(self) -> None:
        """Forget every event."""

    @abstractmethod
    def copy_from(self, other: Self) -> None:
        """Become a copy of another state of the same backend."""

    @abstractmethod
    def step(self, x: NDArray[np.float32]) -> None:
        """Take in one event.

        Args:
            x: (D,) float32, its embedding.

        Raises:
            BackendError: Inference failed; the state is as before.
        """

    def observe(self, x: NDArray[np.float32]) -> None:
        """Take in events, oldest first, at once where the backend can.

        The result does not depend on how a history is cut into calls.

        Args:
            x: (T, D) float32, embeddings of the events; T may exceed L.

        Raises:
            BackendError: ``x`` has another shape, or inference failed; the state is as
                after the last good event.
        """
        if x.ndim != 2 or x.shape[1] != self._h0.size:
            raise BackendError(f"x: expected (T, {self._h0.size}), got {x.shape}")
        n_at_once = self._take_in_at_once(x) if len(x) > 1 else 0
        for event in x[n_at_once:]:
            self.step(event)

    @abstractmethod
    def _take_in_at_once(self, x: NDArray[np.float32]) -> int:
        """Take in the first events of (T, D), T > 1, and return how many; 0 = not possible."""
