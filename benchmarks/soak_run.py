# SPDX-License-Identifier: Apache-2.0
"""Runs ``soak``: the threads, and what is known about the state while they run.

Nobody can know the state during a call, but it can be bounded without disturbing the
call: from the counts read before and after it. ``Ledger`` keeps them.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sampling import rss_bytes
from benchmarks.seeded_bundle import shuffled_plan, write_seeded_bundle
from benchmarks.shapes import Shape
from benchmarks.soak_oracle import QUESTIONS, Oracle, Script, ask
from benchmarks.swappable_runtime import SwappableRuntime
from pocketrec.errors import ConfigError
from pocketrec_device.engine import Engine
from pocketrec_device.ranking import Ranking
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.plan import encode_plan

__all__ = [
    "N_TRAJECTORIES",
    "Bench",
    "Ledger",
    "Soak",
    "SoakSettings",
    "make_bench",
]

SHAPE = Shape(d=32, window=11, blocks=2, n_items=40, n_candidates=12)
"""Small, so that threads are mostly between two steps of the runtime and not in arithmetic."""

N_SCRIPT_ITEMS, RUN_OF_EVENTS = 5, 4
SLATE_EVERY = 12
SWITCH_INTERVAL_S = 5e-5  # threads take turns a hundred times as often as by default
MAX_SHOWN = 10
KEPT_EPOCHS = 256
CURVE_POINTS = 50
KINDS = ("observe", "rerank", "slate", "swap")
N_PLANS = 2
N_TRAJECTORIES = N_PLANS * N_SCRIPT_ITEMS * RUN_OF_EVENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakSettings:
    """How long to soak, and in what.

    Attributes:
        calls: ``observe`` and ``rerank`` calls, together.
        threads: That make them.
        swap_every: Calls between two swaps of the plan.
        warm_up: Calls before memory is first looked at.
        swap: How the backend goes from plan to plan.
        compute: Kernels.
        seed: Of weights and plans.
        max_growth_bytes: What the process may grow by after the warm-up.

    Raises:
        ConfigError: A number is too small, or there is nothing left after the warm-up.
    """

    calls: int = 1_000_000
    threads: int = 4
    swap_every: int = 1000
    warm_up: int = 50_000
    swap: str = "adapter"
    compute: str = "auto"
    seed: int = 0
    max_growth_bytes: int = 5_000_000

    def __post_init__(self) -> None:
        if min(self.threads, self.swap_every) < 1 or not 0 <= self.warm_up < self.calls:
            raise ConfigError(f"expected threads, swaps and calls after the warm-up, got {self}")


@dataclass(slots=True)
class Epoch:
    """The time under one plan.

    Attributes:
        plan: Its number.
        first: Events that had certainly been taken in when the session was built.
        last: Events that may have been; None while it is being built.
        origins: What the true number can be, by all answers so far.
    """

    plan: int
    first: int
    last: int | None = None
    origins: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Mark:
    """Counts at one moment; ``Ledger`` says which."""

    epoch: int
    n_events: int


class Ledger:
    """Hands out events in order, and bounds the state by counts taken around every call.

    An event is *started* before the runtime is called and *finished* afterwards; an epoch is
    *announced* before its engine is adopted and *adopted* afterwards. A call that begins
    when f events are finished and a epochs adopted, and ends when s are started and n
    announced, saw some f..s events under some epoch a..n. The session of an epoch was built
    from the first o events, o bounded likewise.

    Args:
        script: The events.
        oracle: The legal answers.
        n_events: Events that were taken in before; the session was built from them.
    """

    def __init__(self, script: Script, oracle: Oracle, n_events: int) -> None:
        self._script = script
        self._oracle = oracle
        self._turn = threading.Condition()
        self._lock = threading.Lock()
        self._is_over = False
        self._started = self._finished = n_events
        self._epochs = {0: Epoch(plan=0, first=n_events, last=n_events, origins={n_events})}
        self._announced = self._adopted = 0
        self.n_checked = 0
        self.n_sharp = 0

    def start_event(self) -> str | None:
        """Return the next event's item, once all events on other items are taken in.

        So the order in which events arrive is the script's, though up to a run of them
        are in flight at once. None when the soak was cut short.
        """
        with self._turn:
            while self._started % self._script.run == 0 and self._finished < self._started:
                if self._is_over:
                    return None
                self._turn.wait()
            number = self._started
            self._started += 1
        return self._script.event(number)

    def finish_event(self) -> None:
        """Say that an event was taken in."""
        with self._turn:
            self._finished += 1
            if self._finished == self._started:
                self._turn.notify_all()

    def stop(self) -> None:
        """Let nobody wait any longer."""
        with self._turn:
            self._is_over = True
            self._turn.notify_all()

    def announce(self, plan: int) -> None:
        """Say that an engine under another plan is about to be adopted."""
        number = self._announced + 1
        self._epochs[number] = Epoch(plan=plan, first=self._finished)
        self._epochs.pop(number - KEPT_EPOCHS, None)
        self._announced = number

    def confirm(self) -> None:
        """Say that it was adopted."""
        epoch = self._epochs[self._announced]
        last = self._started
        epoch.origins = set(range(epoch.first, last + 1))
        epoch.last = last  # after the origins: readers look at this first
        self._adopted = self._announced

    def before(self) -> Mark:
        """Return the counts below which no call that begins now can be."""
        return Mark(self._adopted, self._finished)

    def after(self) -> Mark:
        """Return the counts above which no call that has ended can be."""
        return Mark(self._announced, self._started)

    def check(self, question: int, ranking: Ranking, before: Mark, after: Mark) -> str:
        """Return what is wrong with an answer; empty when it is legal.

        Args:
            question: Its position in ``QUESTIONS``.
            ranking: The answer.
            before: From just before the call.
            after: From just after it.
        """
        found = {
            number: self._explanations(number, question, ranking, before, after)
            for number in range(before.epoch, after.epoch + 1)
        }
        epochs = [self._epochs[number].plan for number in found]
        seen = f"{before.n_events} to {after.n_events} events"
        words = f"{QUESTIONS[question].name}: plan {epochs}, {seen}"
        if not any(found.values()):
            return f"{words}: no legal state gives {ranking}"
        with self._lock:
            self.n_checked += 1
            self.n_sharp += before == after
            if len(found) == 1:  # so it tells what this session was built from
                epoch = self._epochs[before.epoch]
                epoch.origins = epoch.origins & found[before.epoch]
                if not epoch.origins:
                    return f"{words}: contradicts earlier answers of the same session"
        return ""

    def _explanations(
        self, number: int, question: int, ranking: Ranking, before: Mark, after: Mark
    ) -> set[int]:
        """Return the origins of an epoch's session from which the answer can come."""
        epoch = self._epochs[number]
        is_adopted = epoch.last is not None
        origins = epoch.origins if is_adopted else range(epoch.first, self._started + 1)
        return {
            origin
            for origin in tuple(origins)
            if any(
                self._oracle.answers(epoch.plan, origin, n_events)[question] == ranking
                for n_events in range(max(before.n_events, origin), after.n_events + 1)
            )
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """What a soak needs, ready made.

    Attributes:
        make_runtime: Returns a runtime under plan 0 with a full window.
        plans: Plan containers.
        script: The events.
        oracle: The legal answers.
        candidates: What is ranked; the last one is unknown to the runtime.
    """

    make_runtime: Callable[[], SwappableRuntime]
    plans: tuple[bytes, ...]
    script: Script
    oracle: Oracle
    candidates: tuple[str, ...]


def make_bench(
    folder: Path, settings: SoakSettings, advance: Callable[[], object] = lambda: None
) -> Bench:
    """Write a bundle, compute all legal answers, and warm a runtime up.

    Args:
        folder: Where to write the bundle.
        settings: Of the soak.
        advance: Called ``N_TRAJECTORIES`` times, as the work goes on.
    """
    bundle = write_seeded_bundle(folder, SHAPE, seed=settings.seed)
    default = bundle.read_default_plan()
    plans = tuple(encode_plan(shuffled_plan(default, seed=seed), None) for seed in range(N_PLANS))
    engines = EngineSettings(swap=settings.swap, compute=settings.compute)
    ids = bundle.read_items().item_ids
    script = Script(items=ids[:N_SCRIPT_ITEMS], run=RUN_OF_EVENTS)
    candidates = (*ids[: SHAPE.n_candidates], "unknown")

    def oracle_runtime(plan: int) -> SwappableRuntime:
        runtime = SwappableRuntime(bundle, engines)
        runtime.adopt(made.setdefault(plan, runtime.engine_under(plans[plan])))
        return runtime

    def make_runtime() -> SwappableRuntime:
        runtime = SwappableRuntime(bundle, engines)
        runtime.adopt(runtime.engine_under(plans[0]))
        runtime.observe_many(script.last(SHAPE.window, SHAPE.window))
        return runtime

    made: dict[int, Engine] = {}
    oracle = Oracle(
        oracle_runtime,
        n_plans=len(plans),
        script=script,
        window=SHAPE.window,
        n_blocks=SHAPE.blocks,
        candidates=candidates,
        advance=advance,
    )
    return Bench(
        make_runtime=make_runtime,
        plans=plans,
        script=script,
        oracle=oracle,
        candidates=candidates,
    )


class Soak:
    """One soak.

    Args:
        settings: How long, and in what.
        bench: What ``make_bench`` returned.
    """

    def __init__(self, settings: SoakSettings, bench: Bench) -> None:
        self._settings = settings
        self._bench = bench
        self._runtime = bench.make_runtime()
        self._ledger = Ledger(bench.script, bench.oracle, SHAPE.window)
        self._tickets = itertools.count()
        self._done = [0] * settings.threads
        self._counts = [
            dict.fromkeys(("observe", "rerank", "slate", "swap"), 0) for _ in self._done
        ]
        self._swapping = threading.Lock()
        self._n_swaps = 0
        self._n_violations = 0
        self._shown: list[str] = []
        self._errors: list[str] = []
        self._stop = threading.Event()

    def run(self, advance: Callable[[int], object] = lambda _n: None) -> dict[str, Any]:
        """Make all calls, and return what was found.

        Args:
            advance: Called now and then with the number of calls that are done.
        """
        interval_s = sys.getswitchinterval()
        threads = [
            threading.Thread(target=self._work, args=(number,), name=f"soak-{number}")
            for number in range(self._settings.threads)
        ]
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        started = time.perf_counter()
        try:
            for thread in threads:
                thread.start()
            curve = self._watch(threads, advance)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval_s)
        seconds = time.perf_counter() - started
        gc.collect()
        curve.append((sum(self._done), rss_bytes()))
        return self._result(seconds, curve)

    def _watch(
        self, threads: list[threading.Thread], advance: Callable[[int], object]
    ) -> list[tuple[int, int]]:
        """Sample memory until all threads have ended; begin when they are warm."""
        settings = self._settings
        curve: list[tuple[int, int]] = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.02)
            n_done = sum(self._done)
            advance(n_done)
            if n_done < settings.warm_up:
                continue
            if not curve:
                gc.collect()
            if not curve or n_done >= curve[-1][0] + settings.calls / CURVE_POINTS:
                curve.append((n_done, rss_bytes()))
        return curve

    def _work(self, thread: int) -> None:
        settings = self._settings
        try:
            while not self._stop.is_set():
                call = next(self._tickets)  # one step of the interpreter, so no number twice
                if call >= settings.calls:
                    return
                if call and call % settings.swap_every == 0:
                    self._swap()
                    self._counts[thread]["swap"] += 1
                kind = self._observe() if call % 2 == 0 else self._rank(call // 2)
                self._counts[thread][kind] += 1
                self._done[thread] += 1
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is a finding
            self._errors.append(f"{type(exc).__name__}: {exc}")
            self._stop.set()
            self._ledger.stop()

    def _observe(self) -> str:
        item = self._ledger.start_event()
        if item is not None and not self._runtime.observe(item):
            self._violate(f"{item} was not taken in")
        self._ledger.finish_event()
        return "observe"

    def _rank(self, number: int) -> str:
        question = 2 if number % SLATE_EVERY == 0 else number % 2
        before = self._ledger.before()
        ranking = ask(self._runtime, QUESTIONS[question], self._bench.candidates)
        after = self._ledger.after()
        wrong = self._ledger.check(question, ranking, before, after)
        if wrong:
            self._violate(wrong)
        return "slate" if question == 2 else "rerank"

    def _swap(self) -> None:
        runtime, plans = self._runtime, self._bench.plans
        with self._swapping:
            plan = (self._n_swaps + 1) % len(plans)
            engine = runtime.engine_under(plans[plan])
            self._ledger.announce(plan)
            runtime.adopt(engine)
            self._ledger.confirm()
            self._n_swaps += 1

    def _violate(self, what: str) -> None:
        self._n_violations += 1
        if len(self._shown) < MAX_SHOWN:
            self._shown.append(what)

    def _result(self, seconds: float, curve: list[tuple[int, int]]) -> dict[str, Any]:
        limit = self._settings.max_growth_bytes
        growth = curve[-1][1] - curve[0][1]
        ledger = self._ledger
        return {
            "seconds": seconds,
            "calls": {
                kind: sum(counts[kind] for counts in self._counts) for kind in self._counts[0]
            },
            "legal_states": self._bench.oracle.n_states,
            "answers_checked": ledger.n_checked,
            "answers_with_known_state": ledger.n_sharp,
            "violations": self._n_violations,
            "violations_shown": self._shown,
            "errors": self._errors,
            "memory": {
                "warm_bytes": curve[0][1],
                "end_bytes": curve[-1][1],
                "growth_bytes": growth,
                "limit_bytes": limit,
                "curve": [{"calls": calls, "rss_bytes": rss} for calls, rss in curve],
            },
            "is_met": not (self._n_violations or self._errors) and growth <= limit,
        }
