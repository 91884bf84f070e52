# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cloud.delivery.rollouts.records import NOW_S, make_rollout

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.records import Outcome, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.engine import (
    FINAL_STATES,
    Outcomes,
    abort,
    counts_of,
    evaluate,
    pause,
    resume,
)

LATER_S = NOW_S + 60

counts = st.dictionaries(st.sampled_from(Outcome), st.integers(0, 40))
outcomes = st.dictionaries(st.integers(0, 2), counts)
thresholds = st.floats(0.01, 1.0)
rollouts = st.builds(
    make_rollout,
    success_threshold=thresholds,
    error_threshold=thresholds,
    min_reports=st.integers(1, 30),
    min_stage_s=st.integers(0, 100),
)
# What admins do and devices say, in some order, at times that only go up.
events = st.lists(
    st.tuples(st.integers(0, 100), st.sampled_from(["pause", "resume", "abort"]) | outcomes),
    max_size=12,
)


def said(**stage_0: int) -> dict[int, Mapping[Outcome, int]]:
    """Outcomes of the first stage, by name."""
    return {0: {Outcome(name): n for name, n in stage_0.items()}}


def act(rollout: RolloutRecord, event: str | Outcomes, now_s: int) -> RolloutRecord:
    """Let one thing happen to a rollout; what is refused changes nothing."""
    if not isinstance(event, str):
        return evaluate(rollout, event, now_s)
    try:
        if event == "abort":
            return abort(rollout, now_s, reason="we say so")
        return {"pause": pause, "resume": resume}[event](rollout, now_s)
    except RejectedError:
        return rollout


class TestEvaluate:
    def test_nothing_said(self) -> None:
        """Without reports nothing changes, however long it lasts."""
        rollout = make_rollout()

        assert evaluate(rollout, {}, NOW_S + 10**6) is rollout

    def test_a_stage_is_passed(self) -> None:
        """Nine successes of ten open the next stage once the stage lasted a minute."""
        rollout = make_rollout()
        good = said(installed=6, running=3, failed=1)

        assert evaluate(rollout, good, LATER_S - 1) is rollout
        after = evaluate(rollout, good, LATER_S)
        assert (after.state, after.stage) == (RolloutState.RUNNING, 1)
        assert after.stages_started_at_s == (NOW_S, LATER_S)
        assert after.revision == rollout.revision + 1

    def test_too_few_successes(self) -> None:
        """Between the thresholds a rollout waits."""
        rollout = make_rollout()

        assert evaluate(rollout, said(installed=17, failed=3), LATER_S) is rollout

    def test_too_few_reports(self) -> None:
        """Four reports of five decide nothing, whatever they say."""
        rollout = make_rollout()

        assert evaluate(rollout, said(installed=4), LATER_S) is rollout
        assert evaluate(rollout, said(unhealthy=4), LATER_S) is rollout

    def test_it_stops(self) -> None:
        """One failure of five passes the error threshold, and need not wait for the stage."""
        after = evaluate(make_rollout(), said(installed=4, unhealthy=1), NOW_S)

        assert after.state is RolloutState.STOPPED
        assert after.reason == (
            "1 of 5 reports of stage 1 say failure, and the rollout stops at 20 %"
        )

    def test_stopping_comes_first(self) -> None:
        """When both thresholds are passed, the rollout stops."""
        rollout = make_rollout(success_threshold=0.5)

        after = evaluate(rollout, said(installed=8, reverted=2), LATER_S)
        assert after.state is RolloutState.STOPPED

    def test_an_earlier_stage_counts(self) -> None:
        """Devices of the first stage that fail later stop it, however many newcomers are well."""
        rollout = make_rollout(stage=1, stages_started_at_s=(NOW_S, NOW_S))
        outcomes = said(reverted=5) | {1: {Outcome.INSTALLED: 1000}}

        assert evaluate(rollout, outcomes, LATER_S).state is RolloutState.STOPPED

    def test_a_stage_to_come_does_not_count(self) -> None:
        """Reports of a stage that has not begun decide nothing."""
        rollout = make_rollout()

        assert evaluate(rollout, {1: {Outcome.FAILED: 100}}, LATER_S) is rollout

    def test_it_finishes(self) -> None:
        """Who passes the last stage is finished."""
        rollout = make_rollout(stage=2, stages_started_at_s=(NOW_S,) * 3)

        after = evaluate(rollout, {2: {Outcome.RUNNING: 5}}, LATER_S)
        assert (after.state, after.stage) == (RolloutState.FINISHED, 2)

    def test_paused(self) -> None:
        """A paused rollout neither goes on nor stops."""
        paused = pause(make_rollout(), NOW_S)

        assert evaluate(paused, said(installed=100), LATER_S) is paused
        assert evaluate(paused, said(failed=100), LATER_S) is paused

    @given(rollouts, st.integers(0, 1000))
    def test_all_fail(self, rollout: RolloutRecord, after_s: int) -> None:
        """If all that report fail, the second stage never begins."""
        for n_reports in range(0, 60, 7):
            rollout = evaluate(rollout, said(unhealthy=n_reports), NOW_S + after_s)
            assert rollout.stage == 0

        assert rollout.state is RolloutState.STOPPED

    @given(rollouts, events)
    def test_never_backwards(
        self, rollout: RolloutRecord, events: list[tuple[int, str | Outcomes]]
    ) -> None:
        """Whatever happens: stages only grow, one by one, and so do times and revisions."""
        now_s = NOW_S
        for pause_s, event in events:
            now_s += pause_s
            after = act(rollout, event, now_s)
            assert rollout.stage <= after.stage <= rollout.stage + 1
            assert after.stages_started_at_s[: rollout.stage + 1] == rollout.stages_started_at_s
            assert len(after.stages_started_at_s) == after.stage + 1 <= len(after.stages_percent)
            if after is not rollout:
                assert after.revision == rollout.revision + 1
                assert after.changed_at_s > rollout.changed_at_s
            if rollout.state in FINAL_STATES:
                assert after is rollout
            rollout = after

    @given(rollouts, outcomes)
    def test_the_same_again(
        self, rollout: RolloutRecord, outcomes: Mapping[int, Mapping[Outcome, int]]
    ) -> None:
        """Two servers that judge the same reports come to the same end."""
        assert evaluate(rollout, outcomes, LATER_S) == evaluate(rollout, outcomes, LATER_S)


class TestChanges:
    def test_pause_and_resume(self) -> None:
        """A paused rollout goes on where it was."""
        rollout = make_rollout()
        paused = pause(rollout, NOW_S + 1)
        resumed = resume(paused, NOW_S + 2)

        assert paused.state is RolloutState.PAUSED
        assert (resumed.state, resumed.stage) == (RolloutState.RUNNING, rollout.stage)
        assert resumed.stages_started_at_s == rollout.stages_started_at_s

    def test_abort(self) -> None:
        """Running and paused rollouts can be aborted, and remember why."""
        for rollout in (make_rollout(), pause(make_rollout(), NOW_S)):
            aborted = abort(rollout, NOW_S, reason="bad reviews")
            assert (aborted.state, aborted.reason) == (RolloutState.ABORTED, "bad reviews")

    @pytest.mark.parametrize("state", sorted(FINAL_STATES))
    def test_a_final_state_is_final(self, state: RolloutState) -> None:
        """What has ended is not changed any more, by nobody."""
        rollout = make_rollout(state=state)

        for change in (pause, resume, lambda *a: abort(*a, reason="")):
            with pytest.raises(RejectedError, match=rollout.state) as refusal:
                change(rollout, NOW_S)
            assert refusal.value.code == "FAILED_PRECONDITION"
        assert evaluate(rollout, said(failed=100), LATER_S) is rollout

    def test_illegal(self) -> None:
        """A running rollout cannot be resumed, nor a paused one paused."""
        with pytest.raises(RejectedError):
            resume(make_rollout(), NOW_S)
        with pytest.raises(RejectedError):
            pause(make_rollout(state=RolloutState.PAUSED), NOW_S)


class TestCountsOf:
    def test_sides(self) -> None:
        """Running and installed are successes; unhealthy, failed and reverted are failures."""
        outcomes = said(running=1, installed=2, unhealthy=4, failed=8, reverted=16)

        assert counts_of(outcomes, 0) == (3, 28)
        assert counts_of(outcomes, 1) == (0, 0)
