# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

from tests.cloud.delivery.rollouts.records import make_device, make_rollout

from pocketrec_cloud.delivery.plans.rules import PlanSettings
from pocketrec_cloud.delivery.records import ModelRecord, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.buckets import bucket_of
from pocketrec_cloud.delivery.rollouts.plan_settings import RolloutRules
from pocketrec_cloud.delivery.stores.memory import MemoryStore

MODEL = bytes([9]) * 32
DEVICES = [f"device-{number}" for number in range(300)]
FIRST = next(device for device in DEVICES if bucket_of("r-1", device) < 1)
LAST = next(device for device in DEVICES if bucket_of("r-1", device) > 50)
LEAN = make_rollout(bundle_digest=b"", planner="global", average_bits=2.5)


def store_with(*rollouts: RolloutRecord) -> MemoryStore:
    """A store with one model of the line "demo", and rollouts."""
    store = MemoryStore()
    store.record_model(
        ModelRecord(bundle_digest=bytes(32), model_digest=MODEL, model_name="demo", version=1)
    )
    for rollout in rollouts:
        store.add_rollout(rollout)
    return store


class TestRolloutRules:
    def test_stages(self) -> None:
        """The settings are for devices of the stages begun, whoever their users are."""
        rules = RolloutRules(store_with(LEAN))

        expected = PlanSettings(planner="global", average_bits=2.5)
        assert rules.settings_for("u-1", FIRST, MODEL) == expected
        assert rules.settings_for("", FIRST, MODEL) == expected
        assert rules.settings_for("u-1", LAST, MODEL) is None
        assert rules.settings_for("u-1", "", MODEL) is None

    def test_states(self) -> None:
        """They hold while the rollout lasts and after it, unless it was taken back."""
        for state in RolloutState:
            rules = RolloutRules(store_with(replace(LEAN, state=state)))
            is_taken_back = state in {RolloutState.STOPPED, RolloutState.ABORTED}
            assert (rules.settings_for("", FIRST, MODEL) is None) == is_taken_back

    def test_other_models(self) -> None:
        """Other model lines, unknown models and rollouts of bundles say nothing."""
        other = RolloutRules(store_with(replace(LEAN, model_name="other")))
        bundles = RolloutRules(store_with(make_rollout()))

        assert other.settings_for("", FIRST, MODEL) is None
        assert bundles.settings_for("", FIRST, MODEL) is None
        assert RolloutRules(store_with(LEAN)).settings_for("", FIRST, bytes(32)) is None

    def test_the_newest_holds(self) -> None:
        """A later rollout takes the place of a finished one, stage by stage."""
        finished = replace(LEAN, rollout_id="r-0", request_id="0", stage=2)
        finished = replace(finished, state=RolloutState.FINISHED)
        rules = RolloutRules(store_with(finished, replace(LEAN, average_bits=4.0)))

        first, last = (rules.settings_for("", device, MODEL) for device in (FIRST, LAST))
        assert first is not None
        assert last is not None
        assert (first.average_bits, last.average_bits) == (4.0, 2.5)

    def test_cohort(self) -> None:
        """A device outside of the cohort gets plans as usual."""
        store = store_with(replace(LEAN, cohort="os = Android"))
        device = make_device(device_id=FIRST, os="iOS")
        store.put_device(device, challenge=b"1", challenge_expires_at_s=0)

        assert RolloutRules(store).settings_for("", FIRST, MODEL) is None

    def test_age(self) -> None:
        """A change is seen once what was read is as old as it may be."""
        now = [0.0]
        store = store_with(LEAN)
        rules = RolloutRules(store, max_age_s=1.0, timer=lambda: now[0])
        assert rules.settings_for("", FIRST, MODEL) is not None
        store.swap_rollout(replace(LEAN, state=RolloutState.ABORTED, revision=2), replaces=1)

        assert rules.settings_for("", FIRST, MODEL) is not None
        now[0] = 1.0
        assert rules.settings_for("", FIRST, MODEL) is None
