# SPDX-License-Identifier: Apache-2.0
"""Calls of several threads meet in one, and each gets its own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import cast

import numpy as np
import pytest
from tests.quantization.hypernetwork_samples import LAYERS, random_planner, random_users

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_cloud.planning.batching import BatchingPlanner
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.planners import UserEmbeddings

BUDGET = budget_bytes(LAYERS, 3.0)
OTHER = budget_bytes(LAYERS, 4.0)
USERS = random_users(12)
DEADLINE_S = 20.0


class Gated:
    """The personal planner; the first call waits until the gate opens."""

    name = "personal"

    def __init__(self) -> None:
        self.planner = random_planner()
        self.calls: list[tuple[int, int]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()

    def plan(self, user_embeddings: UserEmbeddings, budget: int) -> np.ndarray:
        """Plan, once the gate is open."""
        self.calls.append((len(user_embeddings), budget))
        self.entered.set()
        assert self.gate.wait(DEADLINE_S)
        return self.planner.plan(user_embeddings, budget)


class Crowd:
    """Threads that ask while a first one keeps the planner busy."""

    def __init__(self, gated: Gated, batching: BatchingPlanner, pool: ThreadPoolExecutor) -> None:
        self.gated, self.batching, self._pool = gated, batching, pool
        self.first = self.ask(USERS[:1])
        assert gated.entered.wait(DEADLINE_S)

    def ask(self, users: UserEmbeddings, budget: int = BUDGET) -> Future[np.ndarray]:
        """Start one call."""
        return self._pool.submit(self.batching.plan, users, budget)

    def ask_in_turn(
        self, requests: Sequence[tuple[UserEmbeddings, int]]
    ) -> list[Future[np.ndarray]]:
        """Start calls, each once the one before waits in line; then let the planner go on."""
        asked = []
        for n_before, request in enumerate(requests):
            asked.append(self.ask(*request))
            deadline = time.monotonic() + DEADLINE_S
            while self.batching._calls.n_waiting <= n_before:
                assert time.monotonic() < deadline
        self.gated.gate.set()
        return asked


@contextmanager
def crowd(max_batch: int = 64) -> Iterator[Crowd]:
    """A planner in its first call, and threads to ask on."""
    gated = Gated()
    with ThreadPoolExecutor(16) as pool:
        try:
            yield Crowd(gated, BatchingPlanner(gated, max_batch=max_batch), pool)
        finally:
            gated.gate.set()


def expected(users: UserEmbeddings, budget: int = BUDGET) -> list[list[int]]:
    """Return what the planner gives without batches."""
    plans: list[list[int]] = random_planner().plan(users, budget).tolist()
    return plans


def test_a_lone_request_is_planned_at_once() -> None:
    """On its own thread, in a call of its own."""
    gated = Gated()
    gated.gate.set()
    batching = BatchingPlanner(gated)

    codes = [batching.plan(USERS[:2], BUDGET).tolist() for _ in range(2)]

    assert codes == [expected(USERS[:2])] * 2
    assert gated.calls == [(2, BUDGET)] * 2
    assert batching.name == "personal"


def test_requests_that_come_meanwhile_share_a_call() -> None:
    """And each gets the plan that it would have got alone."""
    with crowd() as people:
        asked = people.ask_in_turn([([row], BUDGET) for row in USERS[1:]])

        plans = [future.result(DEADLINE_S).tolist() for future in asked]

    assert plans == [expected([row]) for row in USERS[1:]]
    assert people.first.result().tolist() == expected(USERS[:1])
    assert people.gated.calls == [(1, BUDGET), (11, BUDGET)]


def test_budgets_are_not_mixed() -> None:
    """Each has a call of its own, in the order of those who came first."""
    with crowd() as people:
        asked = people.ask_in_turn([([USERS[n]], (BUDGET, OTHER)[n % 2]) for n in range(6)])
        plans = [future.result(DEADLINE_S).tolist() for future in asked]

    assert plans == [expected([USERS[n]], (BUDGET, OTHER)[n % 2]) for n in range(6)]
    assert people.gated.calls == [(1, BUDGET), (3, BUDGET), (3, OTHER)]


def test_batches_are_bounded() -> None:
    """The rest has the next call; what one caller asks for stays together."""
    with crowd(max_batch=4) as people:
        asked = people.ask_in_turn([(USERS[:3], BUDGET), (USERS[:2], BUDGET), (USERS[:6], BUDGET)])
        sizes = [len(future.result(DEADLINE_S)) for future in asked]

    assert sizes == [3, 2, 6]
    assert [n_users for n_users, _ in people.gated.calls] == [1, 3, 2, 6]


def test_a_bad_request_fails_alone() -> None:
    """Its batch mates get their plans."""
    bad = np.full(6, np.nan, np.float32)
    with crowd() as people:
        asked = people.ask_in_turn([([USERS[1]], BUDGET), ([bad], BUDGET), ([USERS[2]], BUDGET)])

        with pytest.raises(ConfigError, match="user_embedding"):
            asked[1].result(DEADLINE_S)
        good = [asked[n].result(DEADLINE_S).tolist() for n in (0, 2)]

    assert good == [expected([USERS[1]]), expected([USERS[2]])]


def test_the_planners_refusals_come_through() -> None:
    """Also of a request that is alone; the next one is planned as ever."""
    batching = BatchingPlanner(random_planner())

    with pytest.raises(InfeasibleBudgetError):
        batching.plan(USERS[:1], 10)

    assert batching.plan(USERS[:1], BUDGET).tolist() == expected(USERS[:1])


def test_a_fault_of_the_planner_reaches_all_and_stops_nobody() -> None:
    """Everyone in the call sees it; the planner is not blocked for ever."""
    with crowd() as people:
        sound, people.gated.planner = people.gated.planner, cast(PersonalPlanner, None)
        asked = people.ask_in_turn([([row], BUDGET) for row in USERS[:3]])
        for future in [people.first, *asked]:
            with pytest.raises(AttributeError):
                future.result(DEADLINE_S)
        people.gated.planner = sound

        assert people.ask(USERS[:1]).result(DEADLINE_S).tolist() == expected(USERS[:1])


def test_many_threads_get_their_own_plans() -> None:
    """Whatever meets what."""
    batching = BatchingPlanner(random_planner(), max_batch=5)
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda n: batching.plan([USERS[n % 12]], BUDGET)[0], range(400)))

    assert [plan.tolist() for plan in plans[:12]] == expected(USERS)
    assert all(np.array_equal(plan, plans[n % 12]) for n, plan in enumerate(plans))


def test_a_batch_holds_somebody() -> None:
    """At least one user."""
    with pytest.raises(ConfigError, match="max_size"):
        BatchingPlanner(random_planner(), max_batch=0)
