# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pocketrec.errors import ConfigError
from pocketrec_device.refresh import (
    Obstacle,
    PlanAge,
    Reason,
    RefreshFacts,
    RefreshPolicy,
    Verdict,
    decide,
    drift_between,
    plan_age,
)

policies = st.builds(
    RefreshPolicy,
    every_events=st.none() | st.integers(1, 50),
    at_session_start=st.booleans(),
    max_drift=st.none() | st.floats(0, 2),
    needs_free_network=st.booleans(),
    min_interval_s=st.floats(0, 1e6),
)
facts = st.builds(
    RefreshFacts,
    n_events=st.integers(0, 100),
    is_session_start=st.booleans(),
    drift=st.none() | st.floats(0, 2),
    is_network_free=st.booleans(),
    since_attempt_s=st.none() | st.floats(-1e6, 2e6),
    plan=st.sampled_from(PlanAge),
)
vectors = arrays(np.float32, 4, elements=st.floats(-100, 100, width=32))

EAGER = RefreshPolicy(every_events=10, max_drift=0.5, needs_free_network=False, min_interval_s=0)


class TestReason:
    @pytest.mark.parametrize(
        ("known", "reason"),
        [
            (RefreshFacts(plan=PlanAge.ABSENT), Reason.NOTHING_INSTALLED),
            (RefreshFacts(plan=PlanAge.EXPIRED, is_session_start=True), Reason.PLAN_EXPIRED),
            (RefreshFacts(plan=PlanAge.EXPIRES_SOON), Reason.PLAN_EXPIRES_SOON),
            (RefreshFacts(is_session_start=True, n_events=99), Reason.SESSION_START),
            (RefreshFacts(drift=0.6, n_events=99), Reason.DRIFT),
            (RefreshFacts(drift=0.5, n_events=10), Reason.EVENTS),
            (RefreshFacts(drift=0.5, n_events=9), None),
        ],
    )
    def test_is_the_first_that_holds(self, known: RefreshFacts, reason: Reason | None) -> None:
        """The verdict names one reason, the weightiest."""
        assert decide(EAGER, known).reason is reason

    def test_counts_only_if_the_app_wants_it(self) -> None:
        """What the policy leaves out never asks for a sync."""
        policy = RefreshPolicy(at_session_start=False)
        known = RefreshFacts(is_session_start=True, drift=2, n_events=1000)

        assert decide(policy, known) == Verdict(reason=None, obstacle=Obstacle.NOT_NEEDED)


class TestObstacle:
    def test_is_a_network_that_costs_money(self) -> None:
        """Even an expired plan waits: it keeps ranking."""
        known = RefreshFacts(plan=PlanAge.EXPIRED, is_network_free=False)
        verdict = decide(RefreshPolicy(needs_free_network=True), known)

        assert (verdict.is_due, verdict.obstacle) == (False, Obstacle.NETWORK)
        assert str(verdict) == "no sync although the plan has expired: the network is not free"
        assert decide(RefreshPolicy(needs_free_network=False), known).is_due

    @pytest.mark.parametrize(
        ("since_s", "is_due"), [(None, True), (0, False), (59.9, False), (60, True), (-1, True)]
    )
    def test_is_an_attempt_a_moment_ago(self, since_s: float | None, *, is_due: bool) -> None:
        """A server that is down is not asked at every event; a clock set back ends no waiting."""
        known = RefreshFacts(is_session_start=True, since_attempt_s=since_s)

        assert decide(RefreshPolicy(min_interval_s=60), known).is_due == is_due


class TestDecision:
    @given(policies, facts)
    def test_always_says_why(self, policy: RefreshPolicy, known: RefreshFacts) -> None:
        """A sync has a reason, and no sync has an obstacle."""
        verdict = decide(policy, known)

        assert verdict.is_due == (verdict.obstacle is None)
        assert verdict.reason is not None or verdict.obstacle is Obstacle.NOT_NEEDED
        assert str(verdict).startswith("sync:" if verdict.is_due else "no sync")

    @given(policies, facts)
    def test_keeps_what_the_app_forbids(self, policy: RefreshPolicy, known: RefreshFacts) -> None:
        """No reason overrides the network or the interval."""
        if decide(policy, known).is_due:
            assert known.is_network_free or not policy.needs_free_network
            since_s = known.since_attempt_s
            assert since_s is None or since_s < 0 or since_s >= policy.min_interval_s

    @given(policies, facts, st.integers(0, 100))
    def test_more_events_never_undo_it(
        self, policy: RefreshPolicy, known: RefreshFacts, more: int
    ) -> None:
        """What was due stays due."""
        if decide(policy, known).is_due:
            assert decide(policy, replace(known, n_events=known.n_events + more)).is_due

    @pytest.mark.parametrize(
        "wrong",
        [
            {"every_events": 0},
            {"max_drift": -0.1},
            {"max_drift": 2.1},
            {"max_drift": float("nan")},
            {"min_interval_s": -1},
            {"min_interval_s": float("inf")},
        ],
    )
    def test_numbers_have_bounds(self, wrong: dict[str, float]) -> None:
        """A policy that cannot be meant is refused where it is written."""
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RefreshPolicy(**wrong)


class TestDrift:
    @given(vectors, vectors, st.floats(0.5, 100))
    def test_is_symmetric_bounded_and_knows_directions_only(
        self, before: np.ndarray, now: np.ndarray, factor: float
    ) -> None:
        """How long a state is does not matter."""
        drift = drift_between(before, now)

        assert 0 <= drift <= 2
        assert drift == pytest.approx(drift_between(now, before), abs=1e-6)
        longer = (before.astype(np.float64) * factor).astype(np.float64)
        assert drift == pytest.approx(drift_between(longer, now), abs=1e-5)

    def test_of_known_angles(self) -> None:
        """The same way, at a right angle, the other way, and without a direction."""
        x, y = np.eye(2, dtype=np.float32)
        assert drift_between(x, 3 * x) == pytest.approx(0)
        assert drift_between(x, y) == pytest.approx(1)
        assert drift_between(x, -x) == pytest.approx(2)
        assert drift_between(x, 0 * x) == 1
        assert drift_between(0 * x, 0 * x) == 0


@pytest.mark.parametrize(
    ("expires_at_s", "age"),
    [
        (0, PlanAge.VALID),
        (1111, PlanAge.VALID),
        (1110, PlanAge.EXPIRES_SOON),
        (1010, PlanAge.EXPIRES_SOON),
        (1000, PlanAge.EXPIRED),
        (1, PlanAge.EXPIRED),
    ],
)
def test_a_plan_ages(expires_at_s: int, age: PlanAge) -> None:
    """Valid, then soon over, then over; 0 never ends."""
    assert plan_age(expires_at_s, 1000.5 if expires_at_s == 1111 else 1000, soon_s=110) is age
