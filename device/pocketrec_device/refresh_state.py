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
        self._z: NDArray[np.float32] | None = None

    def attempt(self) -> None:
        """Remember that a sync begins now."""
        with self._lock:
            self._attempted_at_s = self._timer()

    def succeed(
        self,
        n_events: int,
        h: NDArray[np.float32] | None,
        z: NDArray[np.float32] | None = None,
    ) -> None:
        """Remember where the user stood when a sync went through.

        Args:
            n_events: Events ever taken in.
            h: (D,) float32, the user's state; None without a history.
            z: (D,) float32, the user embedding that the plan was made for; None = none.
        """
        with self._lock:
            self._n_events, self._h, self._z = n_events, h, z

    @property
    def has_embedding(self) -> bool:
        """Whether the last plan was made for a user embedding: drift is measured by it."""
        return self._z is not None

    def facts(
        self,
        *,
        n_events: int,
        h: NDArray[np.float32] | None,
        z: NDArray[np.float32] | None = None,
        plan: PlanAge,
        is_session_start: bool,
        is_network_free: bool,
    ) -> RefreshFacts:
        """Return what is known now.

        Args:
            n_events: Events ever taken in.
            h: (D,) float32, the user's state; None without a history.
            z: (D,) float32, the user embedding; it stands for the state if the plan was
                made for one.
            plan: How the installed plan stands with its expiry.
            is_session_start: Whether a session has just started.
            is_network_free: What the app says.
        """
        with self._lock:
            attempted_at_s = self._attempted_at_s
            before, now = (self._h, h) if self._z is None else (self._z, z)
            drift = None
            if before is not None and now is not None and before.shape == now.shape:
                drift = drift_between(before, now)
            return RefreshFacts(
                n_events=n_events - self._n_events,
                is_session_start=is_session_start,
                drift=drift,
                is_network_free=is_network_free,
                since_attempt_s=None if attempted_at_s is None else self._timer() - attempted_at_s,
                plan=plan,
            )
