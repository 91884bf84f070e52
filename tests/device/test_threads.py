# SPDX-License-Identifier: Apache-2.0
"""Soaks: a result is right if it is one that could have been computed alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import (
    PocketRecError,
)
from pocketrec_device import Ranking, Runtime
from pocketrec_device.engine import Engine
from pocketrec_device.live import LiveSession

if TYPE_CHECKING:
    pass

from tests.device.sessions import EVERYTHING, HISTORY, fresh, pointwise, sequential

from pocketrec_quantization.levels import SPEED_PRESETS


class TestThreads:
    N_THREADS = 4

    def in_threads(self, work: Callable[[int], None], meanwhile: Callable[[], None]) -> None:
        """Run ``work`` in threads, and something else over and over until all are done."""
        failures: list[BaseException] = []

        def guarded(number: int) -> None:
            try:
                work(number)
            except BaseException as exc:  # noqa: BLE001  # raised again below
                failures.append(exc)

        threads = [threading.Thread(target=guarded, args=(n,)) for n in range(self.N_THREADS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            meanwhile()
            time.sleep(0.001)  # the lock is not fair: whoever asks without a pause keeps it
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def test_results_are_those_of_one_plan_or_the_other(
        self, engines: tuple[Engine, Engine]
    ) -> None:
        """Users on shared engines, swapped all the time: every ranking is one plan's, whole."""
        users = [LiveSession() for _ in range(self.N_THREADS)]
        histories = [tuple(np.roll(list("abcdefgh"), n)[:5].tolist()) for n in range(4)]
        possible: list[set[Ranking]] = []
        for user, history in zip(users, histories, strict=True):
            user.adopt(engines[0])
            rankings: set[Ranking] = set()
            for engine in engines:
                for n_first in (4, 5):  # a swap may come before or after the last event
                    alone = fresh(engine, history[:n_first])
                    for item in history[n_first:]:
                        alone.observe(item)
                    rankings |= {pointwise(alone), sequential(alone)}
            possible.append(rankings)
        turn = 0

        def swap() -> None:
            nonlocal turn
            turn += 1
            for user in users:
                user.adopt(engines[turn % 2])

        def work(number: int) -> None:
            user, history = users[number], histories[number]
            for _ in range(800):
                user.reset()
                assert user.observe_many(history[:4]) == 4
                assert user.observe(history[4])
                assert pointwise(user) in possible[number]
                assert sequential(user) in possible[number]

        self.in_threads(work, swap)

    def test_one_user_ranks_in_many_threads(
        self, session: LiveSession, engines: tuple[Engine, Engine]
    ) -> None:
        """Pages that are made at once during swaps are of one plan each."""
        points = {pointwise(fresh(engine)) for engine in engines}
        slates_of_four = {sequential(fresh(engine)) for engine in engines}
        turn = 0

        def swap() -> None:
            nonlocal turn
            turn += 1
            session.adopt(engines[turn % 2])

        def work(_: int) -> None:
            for _ in range(500):
                assert pointwise(session) in points
                with session.slates() as slates:
                    one, other = (slates.rank(EVERYTHING, 4) for _ in range(2))
                assert one == other
                assert one in slates_of_four

        self.in_threads(work, swap)

        assert len(points) == len(slates_of_four) == 2

    def test_a_runtime_changes_presets_under_load(self, runtime: Runtime, store_path: Path) -> None:
        """Rankings and reports of an app's threads fit one preset each, with no error."""
        with Runtime.open(store_path, compute="fp32", swap="adapter") as app:
            app.observe_many(HISTORY)
            possible = set()
            for preset in SPEED_PRESETS:
                app.use_preset(preset)
                possible.add(app.rerank(EVERYTHING.items, 12))
            turn = 0

            def change() -> None:
                nonlocal turn
                turn += 1
                app.use_preset(tuple(SPEED_PRESETS)[turn % 3])

            def work(_: int) -> None:
                for _ in range(150):
                    assert app.rerank(EVERYTHING.items, 12) in possible
                    assert len({tuple(report.requested) for report in app.report()}) == 1

            self.in_threads(work, change)

            assert len(possible) == 2  # a plan of 8 bits has 8 under two of them

    def test_events_of_threads_all_count(
        self, session: LiveSession, engines: tuple[Engine, Engine]
    ) -> None:
        """Whoever observes while others rank and swap, the last events are in the history."""
        turn = 0

        def swap() -> None:
            nonlocal turn
            turn += 1
            session.adopt(engines[turn % 2])

        def work(number: int) -> None:
            for n in range(400):
                assert session.observe("abcdefghijkl"[(5 * number + n) % 12])
                try:
                    sequential(session)
                except PocketRecError as exc:
                    pytest.fail(f"a ranking failed: {exc}")

        self.in_threads(work, swap)

        history = tuple(session._history)
        session.adopt(engines[0])
        session.adopt(engines[1])
        assert len(history) == 5
        assert pointwise(session) == pointwise(fresh(engines[1], history))
