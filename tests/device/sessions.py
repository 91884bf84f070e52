# SPDX-License-Identifier: Apache-2.0
"""A session on engines of two plans, and what it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketrec_device import Ranking
from pocketrec_device.engine import Engine
from pocketrec_device.live import LiveSession
from pocketrec_device.ranking import Candidates
from pocketrec_device.settings import EngineSettings

if TYPE_CHECKING:
    pass

EVERYTHING = Candidates.of(tuple("abcdefghijkl"))
SETTINGS = EngineSettings(compute="fp32", swap="adapter")
HISTORY = tuple("abcde")  # L events: a swap loses nothing


def pointwise(session: LiveSession) -> Ranking:
    """Rank everything."""
    return session.snapshot().rank(EVERYTHING, 12)


def sequential(session: LiveSession) -> Ranking:
    """Build a slate of four."""
    with session.slates() as slates:
        return slates.rank(EVERYTHING, 4)


def fresh(engine: Engine, history: tuple[str, ...] = HISTORY) -> LiveSession:
    """Return a new session on an engine."""
    session = LiveSession()
    session.adopt(engine)
    session.observe_many(history)
    return session
