# SPDX-License-Identifier: Apache-2.0
"""Callers that meet are served together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pocketrec.errors import ConfigError, RejectedError
from pocketrec_cloud.delivery.plans.director import Outcome, PlanRequest
from pocketrec_cloud.delivery.plans.queue import PlanQueue

DEADLINE_S = 20.0
REFUSED = "refused"
FAULTY = "faulty"


class Gated:
    """Answers with the subject, once the gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()

    def serve(self, requests: Sequence[PlanRequest]) -> list[Outcome]:
        """Answer a batch."""
        subjects = [request.subject for request in requests]
        self.batches.append(subjects)
        assert self.gate.wait(DEADLINE_S)
        if FAULTY in subjects:
            raise AttributeError(FAULTY)
        return [
            RejectedError(name, code="NOT_FOUND") if name == REFUSED else name.encode()
            for name in subjects
        ]


def ask(queue: PlanQueue, subject: str) -> asyncio.Task[bytes]:
    """Start one call."""
    return asyncio.create_task(queue.ask(PlanRequest(subject=subject, model_digest=b"")))


def run(talk: Callable[[Gated, PlanQueue], Awaitable[None]], *, max_batch: int = 64) -> Gated:
    """Let callers talk to a queue over a closed gate, and return what was served."""
    gated = Gated()

    async def within_deadline() -> None:
        with ThreadPoolExecutor(2) as pool:
            try:
                queue = PlanQueue(gated.serve, pool, max_batch=max_batch)
                await asyncio.wait_for(talk(gated, queue), DEADLINE_S)
            finally:
                gated.gate.set()

    asyncio.run(within_deadline())
    return gated


async def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, or for other tasks."""
    while not condition():  # noqa: ASYNC110  what changes is in another thread, or tells nobody
        await asyncio.sleep(0)


def test_a_lone_request_is_served_at_once() -> None:
    """One after the other, each in a batch of its own."""

    async def talk(gated: Gated, queue: PlanQueue) -> None:
        gated.gate.set()
        for name in "ab":
            assert await ask(queue, name) == name.encode()

    assert run(talk).batches == [["a"], ["b"]]


def test_requests_that_come_meanwhile_share_a_batch() -> None:
    """And are answered one by one; a batch has a bound."""

    async def talk(gated: Gated, queue: PlanQueue) -> None:
        first = ask(queue, "a")
        await until(lambda: bool(gated.batches))
        others = [ask(queue, name) for name in "bcdef"]
        await until(lambda: queue.n_waiting == 5)
        gated.gate.set()
        assert await asyncio.gather(first, *others) == [b"a", b"b", b"c", b"d", b"e", b"f"]

    assert run(talk, max_batch=3).batches == [["a"], ["b", "c", "d"], ["e", "f"]]


def test_a_refusal_is_of_one() -> None:
    """Its batch mates get their answers."""

    async def talk(gated: Gated, queue: PlanQueue) -> None:
        asked = [ask(queue, name) for name in ("a", REFUSED, "b")]
        gated.gate.set()
        first, refused, last = await asyncio.gather(*asked, return_exceptions=True)
        assert (first, last) == (b"a", b"b")
        assert isinstance(refused, RejectedError)

    assert run(talk).batches == [["a", REFUSED, "b"]]


def test_a_fault_reaches_all_of_its_batch_and_stops_nobody() -> None:
    """The next one is served as ever."""

    async def talk(gated: Gated, queue: PlanQueue) -> None:
        asked = [ask(queue, name) for name in ("a", FAULTY)]
        gated.gate.set()
        failures = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(failure) for failure in failures] == [AttributeError] * 2
        assert await ask(queue, "b") == b"b"

    run(talk)


def test_who_hangs_up_costs_the_others_nothing() -> None:
    """Be it before or while it is served."""

    async def talk(gated: Gated, queue: PlanQueue) -> None:
        first = ask(queue, "a")
        await until(lambda: bool(gated.batches))
        second, third = ask(queue, "b"), ask(queue, "c")
        await until(lambda: queue.n_waiting == 2)
        first.cancel()
        second.cancel()
        gated.gate.set()
        assert await third == b"c"
        assert await ask(queue, "d") == b"d"

    assert run(talk).batches[0] == ["a"]


def test_a_batch_holds_somebody() -> None:
    """At least one request."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="max_batch"):
        PlanQueue(Gated().serve, pool, max_batch=0)
