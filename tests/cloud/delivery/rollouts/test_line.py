# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.cloud.delivery.rollouts.records import BAD, GOOD, NOW_S, make_device, make_rollout

from pocketrec_cloud.delivery.records import RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.buckets import bucket_of
from pocketrec_cloud.delivery.rollouts.line import ModelLine, begun_stage, choose

THIRD = bytes([3]) * 32
DEVICES = [f"device-{number}" for number in range(300)]
FIRST = next(device for device in DEVICES if bucket_of("r-1", device) < 1)
LAST = next(device for device in DEVICES if bucket_of("r-1", device) > 50)
ANDROID = make_device(os="Android")


def line(*rollouts: RolloutRecord, current: bytes = GOOD) -> ModelLine:
    """A line whose bundles 1, 2 and 3 are published; 1 is the current one."""
    return ModelLine(
        current=current,
        candidates=frozenset((GOOD, BAD, THIRD)),
        versions={GOOD: 1, BAD: 2, THIRD: 3},
        rollouts=rollouts,
        publication_version=7,
    )


def chosen(line: ModelLine, device_id: str) -> tuple[bytes, tuple[bytes, ...]]:
    """What an Android device should run, and what was taken back."""
    choice = choose(line, device_id, lambda: ANDROID)
    return choice.bundle_digest, choice.withdrawn


class TestChoose:
    def test_nothing(self) -> None:
        """Without rollouts everybody runs the current bundle."""
        assert chosen(line(), FIRST) == (GOOD, ())

    def test_running(self) -> None:
        """Devices of the stages begun run the bundle of the rollout, the others do not."""
        assert chosen(line(make_rollout()), FIRST) == (BAD, ())
        assert chosen(line(make_rollout()), LAST) == (GOOD, ())
        whole = make_rollout(stage=2, stages_started_at_s=(NOW_S,) * 3)
        assert chosen(line(whole), LAST) == (BAD, ())

    def test_paused(self) -> None:
        """Who has the bundle of a paused rollout keeps it."""
        paused = make_rollout(state=RolloutState.PAUSED)

        assert chosen(line(paused), FIRST) == (BAD, ())

    def test_taken_back(self) -> None:
        """After a stop or an abort everybody runs the bundle of before, and hears why."""
        for state in (RolloutState.STOPPED, RolloutState.ABORTED):
            assert chosen(line(make_rollout(state=state)), FIRST) == (GOOD, (BAD,))
            assert chosen(line(make_rollout(state=state)), LAST) == (GOOD, (BAD,))

    def test_finished(self) -> None:
        """A finished rollout's bundle is for everybody, published as the current one or not."""
        finished = make_rollout(
            state=RolloutState.FINISHED, stage=2, stages_started_at_s=(NOW_S,) * 3
        )

        assert chosen(line(finished), LAST) == (BAD, ())
        assert chosen(line(finished, current=BAD), LAST) == (BAD, ())

    def test_newer_publication(self) -> None:
        """A bundle that was published since, under a higher version, comes before."""
        assert chosen(line(make_rollout(), current=THIRD), FIRST) == (THIRD, ())

    def test_old_withdrawals(self) -> None:
        """What was taken back is of no interest once everybody gets something newer."""
        stopped = make_rollout(state=RolloutState.STOPPED)

        assert chosen(line(stopped, current=THIRD), FIRST) == (THIRD, ())

    def test_another_try(self) -> None:
        """A bundle that is rolled out again is withdrawn only where it is not due yet."""
        stopped = make_rollout(state=RolloutState.STOPPED, rollout_id="r-0")
        again = make_rollout()

        assert chosen(line(stopped, again), FIRST) == (BAD, ())
        assert chosen(line(stopped, again), LAST) == (GOOD, (BAD,))

    def test_after_a_stop(self) -> None:
        """The next rollout brings a newer bundle to its first devices and the old to others."""
        stopped = make_rollout(state=RolloutState.STOPPED, rollout_id="r-0")
        fixed = make_rollout(bundle_digest=THIRD)

        assert chosen(line(stopped, fixed), FIRST) == (THIRD, ())
        assert chosen(line(stopped, fixed), LAST) == (GOOD, (BAD,))

    def test_not_published(self) -> None:
        """A bundle that TUF does not vouch for any more is assigned to nobody."""
        gone = replace(line(make_rollout()), candidates=frozenset())

        assert chosen(gone, FIRST) == (GOOD, ())

    def test_cohort(self) -> None:
        """Devices outside of the cohort keep the current bundle, also after the end."""
        for state in (RolloutState.RUNNING, RolloutState.FINISHED):
            phones = make_rollout(cohort="os = Android", stages_percent=(100.0,), state=state)
            assert chosen(line(phones), LAST)[0] == BAD
            tablets = replace(phones, cohort="os = iPadOS")
            assert chosen(line(tablets), LAST)[0] == GOOD
            assert choose(line(phones), LAST, lambda: None).bundle_digest == GOOD

    def test_plan_settings(self) -> None:
        """A rollout of plan settings leaves bundles alone."""
        assert chosen(line(make_rollout(bundle_digest=b"", average_bits=2.5)), FIRST)[0] == GOOD

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([GOOD, BAD, THIRD]),
                st.sampled_from(RolloutState),
                st.integers(0, 2),
            ),
            max_size=5,
        ),
        st.sampled_from([GOOD, BAD, THIRD]),
        st.sampled_from(DEVICES),
    )
    def test_never_withdrawn_and_assigned(
        self,
        history: list[tuple[bytes, RolloutState, int]],
        current: bytes,
        device_id: str,
    ) -> None:
        """Whatever happened, what a device is to run is not among what was taken back."""
        rollouts = [
            make_rollout(rollout_id=f"r-{number}", bundle_digest=digest, state=state, stage=stage)
            for number, (digest, state, stage) in enumerate(history)
        ]
        bundle, withdrawn = chosen(line(*rollouts, current=current), device_id)

        assert bundle not in withdrawn
        assert list(withdrawn) == sorted(set(withdrawn))
        assert line(*rollouts).version_of(bundle) >= line(*rollouts).version_of(current)


class TestVersion:
    def test_goes_up(self) -> None:
        """Each change of a rollout and each publication raises the number."""
        before = line(make_rollout())
        changed = line(make_rollout(changed_at_s=NOW_S + 1))
        published = replace(before, publication_version=8)

        assert before.version == NOW_S + 7
        assert changed.version > before.version
        assert published.version > before.version


class TestBegunStage:
    def test_stages(self) -> None:
        """A device belongs to the first stage that includes it, once that has begun."""
        rollout = make_rollout()
        begun = make_rollout(stage=2)

        assert begun_stage(rollout, FIRST, lambda: None) == 0
        assert begun_stage(rollout, LAST, lambda: None) is None
        assert begun_stage(begun, FIRST, lambda: None) == 0
        assert begun_stage(begun, LAST, lambda: None) == 2
