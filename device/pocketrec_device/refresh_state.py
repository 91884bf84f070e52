# SPDX-License-Identifier: Apache-2.0
"""What happened since the last sync: the facts that a refresh policy asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pocketrec_device.refresh import PlanAge, RefreshFacts, drift_between

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RefreshState"]


class RefreshState:
    """Remembers, in memory, the last attempt to sync and the user at the last success.

    Args:
        timer: Seconds that only go up.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._lock = threading.Lock()
        self._attempted_at_s: float | None = None
        self._n_events = 0
        self._h: NDArray[np.float32] | None = None

    def attempt(self) -> None:
        """Remember that a sync begins now."""
        with self._lock:
            self._attempted_at_s = self._timer()

    def succeed(self, n_events: int, h: NDArray[np.float32] | None) -> None:
        """Remember where the user stood when a sync went through.

        Args:
            n_events: Events ever taken in.
            h: (D,) float32, the user's state; None without a history.
        """
        with self._lock:
            self._n_events, self._h = n_events, h

    def facts(
        self,
        *,
        n_events: int,
        h: NDArray[np.float32] | None,
        plan: PlanAge,
        is_session_start: bool,
        is_network_free: bool,
    ) -> RefreshFacts:
        """Return what is known now.

        Args:
            n_events: Events ever taken in.
            h: (D,) float32, the user's state; None without a history.
            plan: How the installed plan stands with its expiry.
            is_session_start: Whether a session has just started.
            is_network_free: What the app says.
        """
        with self._lock:
            before, attempted_at_s = self._h, self._attempted_at_s
            drift = None
            if before is not None and h is not None and before.shape == h.shape:
                drift = drift_between(before, h)
            return RefreshFacts(
                n_events=n_events - self._n_events,
                is_session_start=is_session_start,
                drift=drift,
                is_network_free=is_network_free,
                since_attempt_s=None if attempted_at_s is None else self._timer() - attempted_at_s,
                plan=plan,
            )
