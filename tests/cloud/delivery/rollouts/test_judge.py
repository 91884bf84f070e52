# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import dataclass

from tests.cloud.delivery.rollouts.records import NOW_S, make_rollout

from pocketrec_cloud.delivery.records import Outcome, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.judge import judge, judge_all
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.memory import MemoryStore


@dataclass(frozen=True)
class Clock:
    """Always tells the same time."""

    now_s: int

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


def store_with(rollout: RolloutRecord, outcome: Outcome, n: int) -> MemoryStore:
    """A store in which n devices of the first stage said the same."""
    store = MemoryStore()
    store.add_rollout(rollout)
    for number in range(n):
        store.put_outcome(rollout.rollout_id, f"device-{number}", stage=0, outcome=outcome)
    return store


class TestJudge:
    def test_stop(self) -> None:
        """A rollout that harms is stopped; listeners and the audit log hear of it."""
        rollout = make_rollout()
        store = store_with(rollout, Outcome.UNHEALTHY, 5)
        listener = store.listen()
        listener.wait(0)

        judge(store, rollout, Clock(NOW_S))

        stopped = store.find_rollout("r-1")
        assert stopped is not None
        assert stopped.state is RolloutState.STOPPED
        assert listener.wait(5) == {Change.ROLLOUTS}
        (entry,) = store.list_audit(after=0, limit=10)
        assert (entry.admin, entry.action, entry.subject) == ("server", "rollout stopped", "r-1")
        assert json.loads(entry.details) | {"reason": ""} == {
            "stage": 1,
            "percent": 1.0,
            "succeeded": 0,
            "failed": 5,
            "reason": "",
        }

    def test_two_servers(self) -> None:
        """Of two servers that saw the same, one changes the rollout and writes it down."""
        rollout = make_rollout()
        store = store_with(rollout, Outcome.INSTALLED, 5)

        for _ in range(2):
            judge(store, rollout, Clock(NOW_S + 60))

        after = store.find_rollout("r-1")
        assert after is not None
        assert (after.stage, after.revision) == (1, 2)
        assert [e.action for e in store.list_audit(after=0, limit=10)] == ["rollout stage begun"]

    def test_nothing_to_do(self) -> None:
        """Where nothing follows, nothing is written."""
        store = store_with(make_rollout(), Outcome.INSTALLED, 4)

        judge_all(store, Clock(NOW_S + 60))

        assert store.find_rollout("r-1") == make_rollout()
        assert store.list_audit(after=0, limit=10) == []

    def test_to_the_end(self) -> None:
        """Judged now and again, a good rollout goes through its stages and is finished."""
        store = store_with(make_rollout(), Outcome.RUNNING, 5)
        for stage in (1, 2):
            for number in range(5):
                device = f"device-{stage}-{number}"
                store.put_outcome("r-1", device, stage=stage, outcome=Outcome.INSTALLED)

        times = iter([NOW_S + 60, NOW_S + 120, NOW_S + 180])
        for _ in range(3):
            judge_all(store, Clock(next(times)))

        finished = store.find_rollout("r-1")
        assert finished is not None
        assert finished.state is RolloutState.FINISHED
        assert finished.stages_started_at_s == (NOW_S, NOW_S + 60, NOW_S + 120)
