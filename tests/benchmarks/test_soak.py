# SPDX-License-Identifier: Apache-2.0
"""The soak passes on the runtime as it is, and fails on runtimes with faults planted."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import soak
from benchmarks.soak_oracle import Script
from benchmarks.soak_run import Bench, Ledger, Soak, SoakSettings, make_bench
from click.testing import CliRunner

from pocketrec.errors import ConfigError
from pocketrec_device.engine import Engine
from pocketrec_device.live import LiveSession, _Running
from pocketrec_device.ranking import Ranking

SETTINGS = SoakSettings(calls=4000, swap_every=100, warm_up=1000, max_growth_bytes=50_000_000)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bundle, two plans and all legal answers, from before any fault is planted."""
    return make_bench(tmp_path_factory.mktemp("soak"), SETTINGS)


class TestScript:
    """The order of events."""

    def test_items_come_in_turns(self) -> None:
        """Each several times in a row."""
        script = Script(items=("a", "b", "c"), run=2)

        assert script.last(8, 8) == ["a", "a", "b", "b", "c", "c", "a", "a"]
        assert script.period == 6


class TestSoak:
    """Whole soaks, short ones."""

    def test_the_runtime_passes(self, bench: Bench) -> None:
        """Every answer is a legal one."""
        found = Soak(SETTINGS, bench).run()

        assert found["violations_shown"] == found["errors"] == []
        assert found["is_met"]
        assert found["calls"]["swap"] == 39
        assert found["calls"]["slate"] > 100
        assert found["answers_checked"] == 2000

    def test_one_thread_leaves_one_legal_answer(self, bench: Bench) -> None:
        """How often several threads do is up to the scheduler."""
        found = Soak(replace(SETTINGS, threads=1), bench).run()

        assert found["is_met"]
        assert found["answers_with_known_state"] == found["answers_checked"] == 2000

    def test_growth_of_memory_fails(self, bench: Bench) -> None:
        """However little, where less is allowed."""
        settings = SoakSettings(calls=200, warm_up=0, max_growth_bytes=-(2**40))

        assert not Soak(settings, bench).run()["is_met"]

    def test_an_error_ends_it(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """All threads stop, and the error is told."""
        soaked = Soak(SETTINGS, bench)
        monkeypatch.setattr(LiveSession, "snapshot", lambda *_, **__: 1 / 0)

        found = soaked.run()

        assert not found["is_met"]
        assert "ZeroDivisionError" in found["errors"][0]

    def test_nothing_to_do_is_refused(self) -> None:
        """Memory cannot grow after the last call."""
        with pytest.raises(ConfigError, match="after the warm-up"):
            SoakSettings(calls=10, warm_up=10)


def _engine_before_session(self: LiveSession, engine: Engine) -> None:
    """Switch the engine, and the session a moment later."""
    running = self._running
    history = tuple(self._history)
    if running is not None:
        self._running = _Running(engine, running.session)
        time.sleep(0.002)
    with self._lock:
        history = tuple(self._history)
        self._running = _Running(engine, engine.new_session(history))


def _old_cache(self: LiveSession, engine: Engine) -> None:
    """Keep keys and values that the old plan made."""
    with self._lock:
        session = engine.backend.new_state()
        if self._running is not None:
            session.copy_from(self._running.session)
        self._running = _Running(engine, session)


def _lost_event(self: LiveSession, engine: Engine) -> None:
    """Read the history, build the session without the lock, and miss what came meanwhile."""
    history = deque(self._history, maxlen=engine.manifest.backbone.window)
    session = engine.new_session(tuple(history))
    time.sleep(0.001)
    with self._lock:
        self._running = _Running(engine, session)
        self._history = history


class TestPlantedFaults:
    """Each of these was one line away."""

    @pytest.mark.parametrize("adopt", [_engine_before_session, _old_cache, _lost_event])
    def test_a_torn_swap_is_found(
        self,
        bench: Bench,
        monkeypatch: pytest.MonkeyPatch,
        adopt: Callable[[LiveSession, Engine], None],
    ) -> None:
        """Whichever part of it is torn."""
        monkeypatch.setattr(LiveSession, "adopt", adopt)

        found = Soak(SETTINGS, bench).run()

        assert found["violations"] > 0
        assert not found["is_met"]

    def test_events_without_a_lock_are_found(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two threads write to one session's memory."""
        soaked = Soak(SETTINGS, bench)
        monkeypatch.setattr(soaked._runtime._live, "_lock", nullcontext())

        found = soaked.run()

        assert found["violations"] > 0

    def test_seen_items_of_another_moment_are_found(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if they were read after the state."""
        original = LiveSession._snapshot

        def late(self: LiveSession, running: Any, *, with_seen: bool) -> Any:
            before = original(self, running, with_seen=False)
            if not with_seen:
                return before
            self._lock.release()
            time.sleep(0.0005)
            self._lock.acquire()
            return type(before)(engine=before.engine, h=before.h, seen=frozenset(self._history))

        monkeypatch.setattr(LiveSession, "_snapshot", late)

        assert Soak(SETTINGS, bench).run()["violations"] > 0


class TestLedger:
    """What it lets pass, without threads."""

    def test_only_what_can_have_been_is_legal(self, bench: Bench) -> None:
        """After one event: the answer before it, and the one after it."""
        ledger = Ledger(bench.script, bench.oracle, 11)
        before = ledger.before()
        ledger.start_event()
        after = ledger.after()

        def wrong(n_events: int, plan: int = 0) -> str:
            ranking = bench.oracle.answers(plan, 11, n_events)[0]
            return ledger.check(0, ranking, before, after)

        assert not wrong(11)
        assert not wrong(12)
        assert "no legal state" in wrong(13)
        assert "no legal state" in wrong(11, plan=1)

    def test_both_plans_are_legal_while_one_is_being_adopted(self, bench: Bench) -> None:
        """And only the new one afterwards."""
        ledger = Ledger(bench.script, bench.oracle, 11)
        before = ledger.before()
        ledger.announce(1)
        during = ledger.after()
        old, new = (bench.oracle.answers(plan, 11, 11)[0] for plan in (0, 1))

        assert [ledger.check(0, each, before, during) for each in (old, new)] == ["", ""]
        ledger.confirm()
        assert "no legal state" in ledger.check(0, old, ledger.before(), ledger.after())

    def test_answers_of_a_session_must_agree(self, bench: Bench) -> None:
        """It was built once, before or after the event."""
        ledger = Ledger(bench.script, bench.oracle, 11)
        ledger.announce(1)
        ledger.start_event()
        ledger.finish_event()
        ledger.confirm()
        early, late = (bench.oracle.answers(1, origin, 12)[0] for origin in (11, 12))
        mark = ledger.before()

        assert early != late
        assert ledger.check(0, early, mark, mark) == ""
        assert "no legal state" in ledger.check(0, late, mark, mark)

    def test_the_next_item_waits_for_the_last_one(self, bench: Bench) -> None:
        """So that order is known although four threads observe."""
        ledger = Ledger(bench.script, bench.oracle, 12)
        items = [ledger.start_event() for _ in range(bench.script.run)]
        waiting = threading.Thread(target=lambda: items.append(ledger.start_event()))
        waiting.start()
        time.sleep(0.01)

        assert len(set(items)) == 1
        assert len(items) == bench.script.run
        for _ in range(bench.script.run):
            ledger.finish_event()
        waiting.join(5)
        assert len(set(items)) == 2


class TestCommand:
    """``python -m benchmarks.soak``."""

    @pytest.mark.parametrize("is_met", [True, False])
    def test_it_ends_as_it_went(
        self, is_met: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """With 1 where anything was wrong."""
        monkeypatch.setattr(soak, "make_bench", lambda *_: bench)
        if not is_met:
            monkeypatch.setattr(Ledger, "check", lambda *_: "torn")
        out = tmp_path / "soak.json"

        done = CliRunner().invoke(
            soak.main, ["--calls", "300", "--warm-up", "100", "--json", str(out)]
        )

        assert done.exit_code == (0 if is_met else 1), done.output
        assert ("torn" in done.output) == (not is_met)
        assert json.loads(out.read_text())["is_met"] == is_met


def test_rankings_compare_bit_by_bit() -> None:
    """The smallest difference is one."""
    assert Ranking(("a",), (1.0,)) != Ranking(("a",), (1.0 + 2**-52,))
