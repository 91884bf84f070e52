# SPDX-License-Identifier: Apache-2.0
"""Every answer that ``soak`` may get, computed beforehand by one thread.

What a session answers depends, to the last bit, on four things: the plan; the L events it
was built from when it went live; the events since; and how many those were, because each
takes the next row of a ring and sums are taken in the order of rows. Events come in a
cycle here, so there are few enough such states to compute all of them, once, on runtimes
that no other thread touches and that never swap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from pocketrec_device.ranking import Mode, Ranking
from pocketrec_device.runtime import Runtime

__all__ = ["QUESTIONS", "Oracle", "Question", "Script", "ask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The events of a soak: a few items in turns, each several times in a row.

    Args:
        items: P items; event n is ``items[n // run % P]``.
        run: Events on one item before the next one: these may arrive in any order.
    """

    items: tuple[str, ...]
    run: int

    @property
    def period(self) -> int:
        """After how many events everything repeats."""
        return len(self.items) * self.run

    def event(self, number: int) -> str:
        """Return the item of an event, numbered from 0."""
        return self.items[number // self.run % len(self.items)]

    def last(self, n_events: int, count: int) -> list[str]:
        """Return the last ``count`` of the first ``n_events`` events, oldest first."""
        return [self.event(number) for number in range(n_events - count, n_events)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One way to ask for a ranking.

    Attributes:
        name: For reports.
        k: How many items to return.
        mode: As for ``Runtime.rerank``.
        exclude_seen: As for ``Runtime.rerank``.
    """

    name: str
    k: int
    mode: Mode = "pointwise"
    exclude_seen: bool = False


QUESTIONS = (
    Question(name="pointwise", k=100),
    Question(name="pointwise, seen items left out", k=100, exclude_seen=True),
    Question(name="sequential", k=4, mode="sequential"),
)
"""Asked in every state. ``k=100`` returns the scores of all candidates."""


def ask(runtime: Runtime, question: Question, candidates: Sequence[str]) -> Ranking:
    """Ask a runtime one question."""
    return runtime.rerank(
        candidates, question.k, mode=question.mode, exclude_seen=question.exclude_seen
    )


class Oracle:
    """The legal answers in every state.

    Args:
        make_runtime: Returns a runtime of its own under a plan, by number, without history.
        n_plans: How many plans there are.
        script: The events.
        window: L.
        n_blocks: Of the model.
        candidates: What is ranked.
        advance: Called after every ``1 / (n_plans * script.period)`` of the work.

    Raises:
        RuntimeError: Answers do not repeat as they should, or two states cannot be told
            apart; a soak would prove nothing.
    """

    def __init__(
        self,
        make_runtime: Callable[[int], Runtime],
        *,
        n_plans: int,
        script: Script,
        window: int,
        n_blocks: int,
        candidates: Sequence[str],
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        self._script = script
        self._window = window
        self._candidates = candidates
        # What a session was built from leaves one block per L - 1 events.
        self._settled = (n_blocks + 1) * window
        self._cycle = math.lcm(script.period, window - 1)
        self._answers: dict[tuple[int, int], list[tuple[Ranking, ...]]] = {}
        for plan, origin in product(range(n_plans), range(script.period)):
            self._answers[plan, origin] = self._trajectory(make_runtime(plan), origin)
            advance()
        self._check_distinct()

    @property
    def n_states(self) -> int:
        """How many states have answers."""
        return sum(len(states) for states in self._answers.values())

    def answers(self, plan: int, origin: int, n_events: int) -> tuple[Ranking, ...]:
        """Return what every question gives in a state.

        Args:
            plan: Number of the plan.
            origin: How many events there had been when the session was built.
            n_events: How many there are now, ``origin`` at least.
        """
        since = n_events - origin
        if since >= self._settled:
            since = self._settled + (since - self._settled) % self._cycle
        return self._answers[plan, origin % self._script.period][since]

    def _trajectory(self, runtime: Runtime, origin: int) -> list[tuple[Ranking, ...]]:
        origin += self._script.period * self._window  # a full window comes before
        runtime.observe_many(self._script.last(origin, self._window))
        states = []
        n_states = self._settled + self._cycle
        for number in range(n_states + 2 * self._window):
            states.append(tuple(ask(runtime, each, self._candidates) for each in QUESTIONS))
            runtime.observe(self._script.event(origin + number))
        if states[n_states:] != states[self._settled : self._settled + 2 * self._window]:
            raise RuntimeError(f"expected answers to repeat after {self._cycle} events")
        return states[:n_states]

    def _check_distinct(self) -> None:
        """Every question tells plans apart, and scores tell one event from the next."""
        for (plan, origin), states in self._answers.items():
            for other in range(plan):
                pairs = zip(states, self._answers[other, origin], strict=True)
                if any(a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True)):
                    raise RuntimeError("expected the plans to give different answers")
            if any(one[0] == following[0] for one, following in pairwise(states)):
                raise RuntimeError("expected every event to change the scores")
