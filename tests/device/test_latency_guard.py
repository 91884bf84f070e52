# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import ConfigError, HealthCheckError
from pocketrec_device import Runtime
from pocketrec_device.engine import Engine
from pocketrec_device.install import bootstrap
from pocketrec_device.latency_guard import Latencies, LatencyLimits, check_latency, is_too_slow
from pocketrec_quantization.bundle import BundleFolder

LIMITS = LatencyLimits(max_us=1000, max_ratio=5)


class Stopwatch:
    """A timer that work moves on, and nothing else."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def work(self, *costs_us: float) -> Callable[[], None]:
        """Return work that takes so long, call by call; the last one again and again."""
        left = list(costs_us)

        def work() -> None:
            self.now_s += (left.pop(0) if len(left) > 1 else left[0]) / 1e6

        return work


class TestCheck:
    def test_lets_a_fast_engine_in(self) -> None:
        """And says what was measured."""
        timer = Stopwatch()

        found = check_latency(timer.work(300), timer.work(200), LIMITS, timer=timer)

        assert found is not None
        assert found.new_us == pytest.approx(300)
        assert found.old_us == pytest.approx(200)

    def test_refuses_what_is_beyond_both_limits(self) -> None:
        """The message names both numbers."""
        timer = Stopwatch()

        with pytest.raises(HealthCheckError, match=r"the 200 us of what runs.*take 1100 us"):
            check_latency(timer.work(1100), timer.work(200), LIMITS, timer=timer)

    @pytest.mark.parametrize(
        ("new_us", "old_us"),
        [
            pytest.param(990, 1, id="within-the-clock"),
            pytest.param(40_000, 10_000, id="within-the-ratio"),
        ],
    )
    def test_one_limit_is_enough(self, new_us: float, old_us: float) -> None:
        """Slow beside a very fast engine is no harm, nor is slow on a slow device."""
        timer = Stopwatch()

        assert check_latency(timer.work(new_us), timer.work(old_us), LIMITS, timer=timer)

    def test_without_an_engine_that_runs_nothing_is_refused(self) -> None:
        """A slow ranking beats none."""
        timer = Stopwatch()

        found = check_latency(timer.work(10_000_000), None, LIMITS, timer=timer)

        assert found is not None
        assert found.old_us is None

    def test_a_pause_does_not_count(self) -> None:
        """Neither the first call nor a few slow ones move a median."""
        timer = Stopwatch()
        new = timer.work(90_000, 90_000, 90_000, 90_000, 100)

        assert check_latency(new, timer.work(100), LIMITS, timer=timer)

    def test_a_bad_moment_does_not_count(self) -> None:
        """What was slow for a whole measurement gets another one."""
        timer = Stopwatch()
        new = timer.work(*[90_000] * 10, 100)

        found = check_latency(new, timer.work(100), LIMITS, timer=timer)

        assert found is not None
        assert found.new_us == pytest.approx(100)

    def test_ends_early_where_time_is_short(self) -> None:
        """An engine that takes a second a call is called a few times only."""
        timer = Stopwatch()

        with pytest.raises(HealthCheckError):
            check_latency(timer.work(1_000_000), timer.work(0), LIMITS, timer=timer)

        assert timer.now_s == pytest.approx(2 * (1 + 3))

    def test_can_be_switched_off(self) -> None:
        """Then nothing is run."""

        def fail() -> None:
            raise ZeroDivisionError

        assert check_latency(fail, fail, LatencyLimits(is_on=False)) is None

    def test_the_defaults_pass_real_noise(self) -> None:
        """The real clock, and the same work on both sides."""
        assert check_latency(lambda: sum(range(100)), lambda: sum(range(100)), LatencyLimits())

    @given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1, 10))
    def test_slower_is_never_better(self, new_us: float, old_us: float, factor: float) -> None:
        """What is refused is refused when it is slower still, or the old one is faster."""
        if is_too_slow(Latencies(new_us=new_us, old_us=old_us), LIMITS):
            assert is_too_slow(Latencies(new_us=new_us * factor, old_us=old_us), LIMITS)
            assert is_too_slow(Latencies(new_us=new_us, old_us=old_us / factor), LIMITS)

    @pytest.mark.parametrize(
        "wrong",
        [{"max_us": 0}, {"max_ratio": 0.9}, {"n_rounds": 2}, {"budget_s": -1}],
    )
    def test_numbers_have_bounds(self, wrong: dict[str, float]) -> None:
        """Limits that cannot be meant are refused."""
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            LatencyLimits(**wrong)


class TestGuard:
    def refuse(self, engine: Engine) -> None:
        """Find every engine too slow."""
        raise HealthCheckError(f"version {engine.manifest.version} is too slow")

    def test_keeps_the_old_pair(
        self, runtime: Runtime, make_bundle: Callable[..., BundleFolder]
    ) -> None:
        """A bundle that is refused does not go live, on disk or in memory."""
        store, before = runtime._store, runtime.status()

        with store.writing(), pytest.raises(HealthCheckError, match="version 2 is too slow"):
            bootstrap(store, make_bundle(version=2).path, runtime._settings, guard=self.refuse)

        assert runtime.status() == before

    def test_is_not_asked_about_what_runs(self, runtime: Runtime, bundle: BundleFolder) -> None:
        """Repairing the current pair needs no permission."""
        part = next(runtime._store.path.glob("bundles/*/parts/*"))
        part.write_bytes(b"damaged")

        with runtime._store.writing():
            engine = bootstrap(runtime._store, bundle.path, runtime._settings, guard=self.refuse)

        assert engine is not None
