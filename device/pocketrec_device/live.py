# SPDX-License-Identifier: Apache-2.0
"""The running engine and one user's history, behind one lock.

``observe`` and ``reset`` hold the lock while they run. ``snapshot`` holds it only long
enough to take what scoring needs: an engine and the user's state, neither of which is
ever changed afterwards. So a swap does not disturb a ranking that has begun.

A swap rebuilds the session from the last L known item ids, which is why they are kept.
They never leave memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import StoreError
from pocketrec_device.ranking import rank

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_device.engine import Engine
    from pocketrec_device.ranking import Candidates, Ranking
    from pocketrec_device.session import SessionState

__all__ = ["LiveSession", "Snapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one ranking works on.

    Args:
        engine: What computes.
        h: (D,) float32, the user's state; None without a history.
        seen: The last L known item ids.
    """

    engine: Engine
    h: NDArray[np.float32] | None
    seen: frozenset[str]

    def rank(self, candidates: Candidates, k: int) -> Ranking:
        """Return the k best candidates; ``ranking`` has the rules.

        Raises:
            ConfigError: ``k`` is below 1.
            BackendError: Inference failed.
        """
        if self.h is None:
            return rank(candidates, None, None, k)
        scores, known = self.engine.score(self.h, candidates.items)
        return rank(candidates, scores, known, k)


class LiveSession:
    """One user's session on whatever engine is current; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[Engine, SessionState] | None = None
        self._history: deque[str] = deque()

    @property
    def is_ready(self) -> bool:
        """Whether there is an engine."""
        return self._running is not None

    def adopt(self, engine: Engine) -> None:
        """Run ``engine`` from now on, unless the same pair runs already.

        Raises:
            BackendError: The history cannot be computed; the old engine stays.
        """
        with self._lock:
            if self._running is not None and self._running[0].pair == engine.pair:
                return
            history = deque(self._history, maxlen=engine.manifest.backbone.window)
            self._running = (engine, engine.new_session(tuple(history)))
            self._history = history

    def observe(self, item_ids: Sequence[str]) -> int:
        """Take in events, oldest first, and return how many of them the item table knows.

        Raises:
            StoreError: There is no engine.
            BackendError: Inference failed; the events before it were taken in.
        """
        with self._lock:
            engine, session = self._current()
            known = [item_id for item_id in item_ids if engine.items.index_of(item_id)]
            n_before = session.n_events
            try:
                session.observe(engine.backend, engine.items.embed(engine.items.indices_of(known)))
            finally:
                self._history.extend(known[: session.n_events - n_before])
            return len(known)

    def reset(self) -> None:
        """Forget the history.

        Raises:
            StoreError: There is no engine.
        """
        with self._lock:
            self._current()[1].reset()
            self._history.clear()

    def snapshot(self, *, with_seen: bool) -> Snapshot:
        """Return what a ranking needs, as of now.

        Args:
            with_seen: Whether to collect the seen items, which takes time.

        Raises:
            StoreError: There is no engine.
        """
        with self._lock:
            engine, session = self._current()
            return Snapshot(
                engine=engine,
                h=session.h if session.n_events else None,
                seen=frozenset(self._history if with_seen else ()),
            )

    def close(self) -> None:
        """Let go of the engine and forget the history."""
        with self._lock:
            self._running = None
            self._history.clear()

    def _current(self) -> tuple[Engine, SessionState]:
        if self._running is None:
            raise StoreError("nothing is loaded; sync, or bootstrap from a packaged bundle")
        return self._running
