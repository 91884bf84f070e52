# SPDX-License-Identifier: Apache-2.0
"""What a measuring process does again and again, as an app would.

A scenario is a generator over a stopwatch: between two of its rounds the process looks at
the machine. ``single`` times every operation of one user with a full window, in slices
taken in turns; ``session`` replays sessions of real users event by event; ``offline`` ranks
for one user after the other.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pocketrec_device.live import LiveSession
from pocketrec_device.ranking import Candidates

if TYPE_CHECKING:
    from pocketrec_device.bench.stopwatch import Stopwatch
    from pocketrec_device.engine import Engine

__all__ = ["Effort", "K", "Rounds", "Scenario", "offline", "replay", "single", "sliced"]

K = 10
"""Items that a ranking returns."""

N_SLICES = 8
_N_EVENTS = 1009
_N_LISTS = 64  # coprime with the events, so that they meet in ever new pairs

Rounds: TypeAlias = "Callable[[Stopwatch], Iterator[None]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    Args:
        warmup: Calls before the clock starts, per operation.
        runs: Timed calls at least, per operation.
        min_seconds: Seconds at least, per operation.
    """

    warmup: int
    runs: int
    min_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Something to time.

    Args:
        first: What an app's first ranking does.
        operations: What its rounds time, by name, where that is one call each.
        rounds: The rounds of one measurement; they end when the effort was made.
        users_of: Operation of which one call is one user's whole ranking, for throughput.
    """

    first: Callable[[], object]
    rounds: Rounds
    operations: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    users_of: str = ""


def sliced(operations: Mapping[str, Callable[[], object]], effort: Effort) -> Rounds:
    """Return rounds that give each operation a slice of its time, in turns.

    A machine that is slower for a moment is so for all operations, then.

    Args:
        operations: What to time, by name.
        effort: How long, over all rounds.
    """
    n_calls = -(-effort.runs // N_SLICES)
    seconds = effort.min_seconds / N_SLICES

    def rounds(stopwatch: Stopwatch) -> Iterator[None]:
        for call in operations.values():
            for _ in range(effort.warmup):
                call()
        for _ in range(N_SLICES):
            for name, call in operations.items():
                call()  # what another operation left in the caches is no part of this one
                deadline = time.perf_counter() + seconds
                n_timed = 0
                while n_timed < n_calls or time.perf_counter() < deadline:
                    stopwatch.time(name, call)
                    n_timed += 1
                yield

    return rounds


def single(engine: Engine, *, n_candidates: int, seed: int, effort: Effort) -> Scenario:
    """Return the calls an app makes, on a user with a full window of events.

    Args:
        engine: What computes.
        n_candidates: Candidates per ranking.
        seed: Of the history, events and candidates.
        effort: How long to measure.
    """
    asked = _Questions(engine, n_candidates, seed)
    live = LiveSession()
    live.adopt(engine)

    def rerank() -> object:
        return live.snapshot().rank(Candidates.of(next(asked.lists)), K)

    def observe() -> object:
        return live.observe(next(asked.events))

    def observe_rerank() -> object:
        observe()
        return rerank()

    def prefill_rerank() -> object:
        live.reset()
        live.observe_many(asked.history)
        return rerank()

    operations = _core_operations(engine, asked) | {
        "observe": observe,
        "rerank": rerank,
        "observe_rerank": observe_rerank,
        "prefill_rerank": prefill_rerank,
    }
    rounds = sliced(operations, effort)
    return Scenario(first=prefill_rerank, rounds=rounds, operations=operations)


def _core_operations(engine: Engine, asked: _Questions) -> dict[str, Callable[[], object]]:
    """Return what the runtime's calls are made of, without ids and locks."""
    items = engine.items
    session = engine.new_session(asked.history)
    filled = engine.backend.new_state()
    events = itertools.cycle(items.embed(items.indices_of(asked.history)))
    history = items.embed(items.indices_of(asked.history))
    lists = itertools.cycle([items.indices_of(each) for each in asked.all_lists])

    def prefill() -> None:
        filled.reset()
        filled.observe(history)

    return {
        "prefill": prefill,
        "step": lambda: session.step(next(events)),
        "score": lambda: items.gather(next(lists)).scores(session.h),
    }


def replay(
    engine: Engine,
    sessions: Sequence[Sequence[str]],
    *,
    n_candidates: int,
    seed: int,
    effort: Effort,
) -> Scenario:
    """Return real sessions, one after the other, event by event.

    The older half of a session is taken in at once, as when an app starts. Before each
    further event a list is ranked that holds it.

    Args:
        engine: What computes.
        sessions: Item ids, oldest first, two or more each.
        n_candidates: Candidates per ranking.
        seed: Of the candidates.
        effort: How long to measure.
    """
    asked = _Questions(engine, n_candidates, seed)
    live = LiveSession()
    live.adopt(engine)
    users = itertools.cycle(sessions)

    def rank_with(event: str) -> object:
        others = next(asked.lists)
        return live.snapshot().rank(Candidates.of([event, *others[1:]]), K)

    def play(stopwatch: Stopwatch) -> None:
        events = next(users)
        older = events[: len(events) // 2]
        live.reset()
        stopwatch.time("start", partial(live.observe_many, older))
        for event in events[len(older) :]:
            ranked_ns = stopwatch.time("rerank", partial(rank_with, event))
            observed_ns = stopwatch.time("observe", partial(live.observe, event))
            stopwatch.add("observe_rerank", ranked_ns + observed_ns)

    def first() -> object:
        live.reset()
        live.observe_many(sessions[0])
        return rank_with(sessions[0][-1])

    return Scenario(first=first, rounds=_until_done(play, effort))


def offline(
    engine: Engine,
    sessions: Sequence[Sequence[str]],
    *,
    n_candidates: int,
    seed: int,
    effort: Effort,
) -> Scenario:
    """Return one ranking for each of many users, as a nightly job on a device would.

    Args:
        engine: What computes.
        sessions: Histories, item ids, oldest first.
        n_candidates: Candidates per ranking.
        seed: Of the candidates.
        effort: How long to measure.
    """
    asked = _Questions(engine, n_candidates, seed)
    live = LiveSession()
    live.adopt(engine)
    users = itertools.cycle(sessions)

    def user() -> object:
        live.reset()
        live.observe_many(next(users))
        return live.snapshot().rank(Candidates.of(next(asked.lists)), K)

    def rank_one(stopwatch: Stopwatch) -> None:
        stopwatch.time("user", user)

    return Scenario(first=user, rounds=_until_done(rank_one, effort), users_of="user")


def _until_done(play: Callable[[Stopwatch], None], effort: Effort) -> Rounds:
    """Return rounds of one piece of work each."""

    def rounds(stopwatch: Stopwatch) -> Iterator[None]:
        while stopwatch.fewest < effort.warmup:
            play(stopwatch)
        stopwatch.clear()
        deadline = time.perf_counter() + effort.min_seconds
        while stopwatch.fewest < effort.runs or time.perf_counter() < deadline:
            play(stopwatch)
            yield

    return rounds


class _Questions:
    """A user's full window, endless events after it, and candidate lists in turns."""

    def __init__(self, engine: Engine, n_candidates: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        ids = engine.items.item_ids

        def draw(n: int, *, replace: bool) -> list[str]:
            return [ids[i] for i in rng.choice(len(ids), n, replace=replace)]

        self.history = draw(engine.manifest.backbone.window, replace=True)
        self.events = itertools.cycle(draw(_N_EVENTS, replace=True))
        n_listed = min(n_candidates, len(ids))
        self.all_lists = [draw(n_listed, replace=False) for _ in range(_N_LISTS)]
        self.lists = itertools.cycle(self.all_lists)
