# SPDX-License-Identifier: Apache-2.0
"""The running engine and one user's history, behind one lock.

``observe`` and ``reset`` hold the lock while they run. A snapshot holds it only long
enough to take what scoring needs: an engine and the user's state, neither of which is
ever changed afterwards. So a swap does not disturb a ranking that has begun.

A swap rebuilds the session from the last L known item ids, and an extractor may look back
further, which is why they are kept. They never leave memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import StoreError
from pocketrec_device.extraction import embed_under
from pocketrec_device.ranking import rank, rank_slate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.engine import Engine
    from pocketrec_device.ranking import Candidates, Ranking
    from pocketrec_device.session import SessionState
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.item_table import GatheredRows

__all__ = ["LiveSession", "Slates", "Snapshot"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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
        """Return the k best candidates, pointwise; ``ranking`` has the rules.

        Raises:
            ConfigError: ``k`` is below 1.
        """
        if self.h is None:
            return rank(candidates, None, None, k)
        rows, known = _gather(self.engine, candidates)
        return rank(candidates, rows.scores(self.h), known, k)


class Slates:
    """Makes sequential rankings from one moment's state; ``LiveSession.slates`` lends it.

    Args:
        snapshot: The moment.
        origin: The state then.
        work: A state to work on.
    """

    def __init__(self, snapshot: Snapshot, origin: SessionState, work: SessionState) -> None:
        self._snapshot = snapshot
        self._origin = origin
        self._work = work

    @property
    def seen(self) -> frozenset[str]:
        """The last L known item ids."""
        return self._snapshot.seen

    @property
    def engine(self) -> Engine:
        """What computes."""
        return self._snapshot.engine

    def rank(self, candidates: Candidates, k: int) -> Ranking:
        """Return a slate of k candidates; ``ranking`` has the rules.

        Raises:
            ConfigError: ``k`` is below 1.
            BackendError: Inference failed.
        """
        work = self._work
        work.copy_from(self._origin)
        rows, known = _gather(self._snapshot.engine, candidates)
        return rank_slate(
            candidates,
            known,
            k,
            score=lambda: rows.scores(work.h) if work.n_events else None,
            take_in=lambda position: work.step(rows.embedding(position)),
        )


def _gather(
    engine: Engine, candidates: Candidates
) -> tuple[GatheredRows, NDArray[np.bool_] | None]:
    """Return the candidates' rows, and which of them are known unless all are."""
    if candidates.indices is not None:
        return engine.items.gather(candidates.indices), None
    indices = engine.items.indices_of(candidates.items)
    known = None if indices.all() else indices > 0
    return engine.items.gather(indices), known


@dataclass(slots=True)
class _Running:
    """What runs, and states to work on that are not in use now."""

    engine: Engine
    session: SessionState
    scratch: list[SessionState] = field(default_factory=list)

    def borrow(self) -> SessionState:
        """Return a state that nobody works on; what it holds is of no use."""
        return self.scratch.pop() if self.scratch else self.engine.backend.new_state()


class LiveSession:
    """One user's session on whatever engine is current; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._history: deque[str] = deque()
        self._n_observed = 0

    @property
    def n_observed(self) -> int:
        """How many events were ever taken in."""
        return self._n_observed

    @property
    def is_ready(self) -> bool:
        """Whether there is an engine."""
        return self._running is not None

    @property
    def engine(self) -> Engine | None:
        """What runs now, if anything does."""
        running = self._running
        return None if running is None else running.engine

    def adopt(self, engine: Engine) -> None:
        """Run ``engine`` from now on, unless one that computes the same runs already.

        Raises:
            BackendError: The history cannot be computed; the old engine stays.
        """
        with self._lock:
            if self._running is not None and self._running.engine.runs_as(engine):
                return
            history = deque(self._history, maxlen=engine.n_remembered)
            self._running = _Running(engine, engine.new_session(_last(history, engine)))
            self._history = history

    def observe(self, item_id: str) -> bool:
        """Take in one event, and return whether the item table knows it.

        Raises:
            StoreError: There is no engine.
            BackendError: Inference failed; the event was not taken in.
        """
        with self._lock:
            running = self._current()
            items = running.engine.items
            index = items.index_of(item_id)
            if not index:
                return False
            running.session.step(items.embedding(index))
            self._history.append(item_id)
            self._n_observed += 1
            return True

    def observe_many(self, item_ids: Sequence[str]) -> int:
        """Take in events, oldest first, and return how many of them the item table knows.

        Raises:
            StoreError: There is no engine.
            BackendError: Inference failed; the events before it were taken in.
        """
        with self._lock:
            running = self._current()
            items, session = running.engine.items, running.session
            indices = items.indices_of(item_ids)
            if not indices.all():
                item_ids = [item_ids[i] for i in np.flatnonzero(indices).tolist()]
                indices = indices[indices > 0]
            n_before = session.n_events
            try:
                session.observe(items.embeddings(indices))
            finally:
                n_taken_in = session.n_events - n_before
                self._history.extend(item_ids[:n_taken_in])
                self._n_observed += n_taken_in
            return len(item_ids)

    def user_embedding(self) -> NDArray[np.float32] | None:
        """Return the user embedding, (D,) float32; None without a history or an extractor.

        Raises:
            StoreError: There is no engine.
            BackendError: Inference failed.
        """
        with self._lock:
            engine, history = self._current().engine, tuple(self._history)
        return None if engine.extractor is None else engine.extractor.embed(engine.items, history)

    def embedding_under(self, bundle: BundleFolder) -> NDArray[np.float32] | None:
        """Return the same as a bundle's extractor has it, which may not be the one that runs.

        Raises:
            ArtifactError: The bundle is damaged, or needs another release.
            BackendError: The library refuses the graph, or inference failed.
        """
        with self._lock:
            running, history = self._running, tuple(self._history)
        if running is None or not history:
            return None
        return embed_under(bundle, running.engine, history)

    def reset(self) -> None:
        """Forget the history.

        Raises:
            StoreError: There is no engine.
        """
        with self._lock:
            self._current().session.reset()
            self._history.clear()

    def snapshot(self, *, with_seen: bool = False) -> Snapshot:
        """Return what a pointwise ranking needs, as of now.

        Args:
            with_seen: Whether to collect the seen items, which takes time.

        Raises:
            StoreError: There is no engine.
        """
        with self._lock:
            return self._snapshot(self._current(), with_seen=with_seen)

    @contextmanager
    def slates(self, *, with_seen: bool = False) -> Iterator[Slates]:
        """Lend what sequential rankings need, as of now: a copy of the state to work on.

        Args:
            with_seen: Whether to collect the seen items, which takes time.

        Raises:
            StoreError: There is no engine.
            BackendError: A state cannot be made.
        """
        with self._lock:
            running = self._current()
            origin, work = running.borrow(), running.borrow()
            origin.copy_from(running.session)
            snapshot = self._snapshot(running, with_seen=with_seen)
        try:
            yield Slates(snapshot, origin, work)
        finally:
            running.scratch.extend((origin, work))

    def close(self) -> None:
        """Let go of the engine and forget the history."""
        with self._lock:
            self._running = None
            self._history.clear()

    def _snapshot(self, running: _Running, *, with_seen: bool) -> Snapshot:
        return Snapshot(
            engine=running.engine,
            h=running.session.h if running.session.n_events else None,
            seen=frozenset(_last(self._history, running.engine) if with_seen else ()),
        )

    def _current(self) -> _Running:
        if self._running is None:
            raise StoreError("nothing is loaded; sync, or bootstrap from a packaged bundle")
        return self._running


def _last(history: Sequence[str], engine: Engine) -> tuple[str, ...]:
    """Return the last L item ids."""
    return tuple(history)[-engine.manifest.backbone.window :]
