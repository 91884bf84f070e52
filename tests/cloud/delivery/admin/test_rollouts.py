# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.cloud.delivery.conftest import Deployment

from pocketrec.errors import RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.admin.rollouts import (
    abort_rollout,
    get_rollout,
    list_rollouts,
    pause_rollout,
    resume_rollout,
    start_rollout,
)
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.records import ModelRecord, Outcome, RolloutState
from pocketrec_cloud.delivery.rollouts.desk import make_desk
from pocketrec_cloud.delivery.rollouts.judge import judge_all
from pocketrec_proto.v1 import admin_service_pb2 as pb


@pytest.fixture
def candidate(deployment: Deployment) -> ModelRecord:
    """Version 2, published as a candidate beside version 1."""
    return deployment.publish(deployment.bundle(version=2, seed=1), is_candidate=True)


@pytest.fixture
def desk(service: AdminService, deployment: Deployment) -> AdminService:
    """What the handlers work on, on a repository with the model "demo"."""
    publication = PublicationCache(deployment.artifacts)
    rollouts = make_desk(deployment.database, publication, SigningKey(b"d" * 32), deployment.clock)
    return replace(service, store=deployment.database, clock=deployment.clock, rollouts=rollouts)


def request(candidate: ModelRecord, **changes: object) -> pb.StartRolloutRequest:
    """A rollout of the candidate in two stages, unless changed."""
    fields: dict[str, object] = {
        "model_name": "demo",
        "bundle_digest": candidate.bundle_digest,
        "stages_percent": [10, 100],
        "success_threshold": 0.9,
        "error_threshold": 0.2,
        "min_reports": 3,
        "min_stage_s": 60,
        "request_id": "first",
    } | changes
    return pb.StartRolloutRequest(**{k: v for k, v in fields.items() if v is not None})


def change(rollout: pb.Rollout, reason: str = "") -> pb.ChangeRolloutRequest:
    """A request about a rollout."""
    return pb.ChangeRolloutRequest(rollout_id=rollout.rollout_id, reason=reason)


class TestStartRollout:
    def test_started(
        self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord
    ) -> None:
        """The first stage begins now, and the audit log says who began it."""
        started = start_rollout(desk, request(candidate, cohort="os=Android"), admin)

        assert started.state == pb.ROLLOUT_STATE_RUNNING
        assert started.request.cohort == "os = Android"
        assert [stage.percent for stage in started.stages] == [10, 100]
        assert [stage.started_at_s for stage in started.stages] == [int(desk.clock()), 0]
        (entry,) = desk.store.list_audit(after=0, limit=10)
        assert (entry.admin, entry.action) == ("olga", "StartRollout")
        assert json.loads(entry.details)["bundle"] == candidate.bundle_digest.hex()

    def test_the_same_again(
        self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord
    ) -> None:
        """A request that is repeated starts nothing anew, also after the end."""
        first = start_rollout(desk, request(candidate), admin)
        assert start_rollout(desk, request(candidate), admin) == first
        ended = abort_rollout(desk, change(first), admin)

        assert start_rollout(desk, request(candidate), admin) == ended
        assert len(list_rollouts(desk, pb.ListRolloutsRequest(), admin).rollouts) == 1

    def test_one_at_a_time(
        self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord
    ) -> None:
        """A second rollout of the line is refused until the first has ended; its name is told."""
        first = start_rollout(desk, request(candidate), admin)
        with pytest.raises(RejectedError, match=first.rollout_id) as refusal:
            start_rollout(desk, request(candidate, request_id="second"), admin)
        assert refusal.value.code == "FAILED_PRECONDITION"
        abort_rollout(desk, change(first), admin)

        again = start_rollout(desk, request(candidate, request_id="second"), admin)
        assert again.changed_at_s > first.changed_at_s

    def test_what_is_no_candidate(
        self,
        desk: AdminService,
        admin: AdminIdentity,
        candidate: ModelRecord,
        deployment: Deployment,
    ) -> None:
        """Neither the current bundle, nor an unknown or older one can be rolled out."""
        current = deployment.published[0].bundle_digest
        for digest, code in ((current, "FAILED_PRECONDITION"), (bytes(32), "NOT_FOUND")):
            with pytest.raises(RejectedError) as refusal:
                start_rollout(desk, request(candidate, bundle_digest=digest), admin)
            assert refusal.value.code == code
        deployment.publish(deployment.bundle(version=3, seed=2))

        with pytest.raises(RejectedError, match="version 2, and devices have version 3"):
            start_rollout(desk, request(candidate), admin)

    def test_plan_settings(
        self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord
    ) -> None:
        """Plan settings need no bundle."""
        plans = pb.PlanSettings(planner="global", average_bits=2.5)
        started = start_rollout(desk, request(candidate, bundle_digest=None, plans=plans), admin)

        assert started.request.plans == plans
        assert not started.request.bundle_digest

    def test_unknown_line(
        self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord
    ) -> None:
        """A model line without a bundle has no rollouts."""
        with pytest.raises(RejectedError, match="nothing is published"):
            start_rollout(desk, request(candidate, model_name="other"), admin)

    @pytest.mark.parametrize(
        "changes",
        [
            {"model_name": "a/b"},
            {"request_id": ""},
            {"request_id": "r" * 129},
            {"bundle_digest": None},
            {"bundle_digest": bytes(31)},
            {"bundle_digest": None, "plans": pb.PlanSettings(average_bits=1.5)},
            {"bundle_digest": None, "plans": pb.PlanSettings(planner="a b")},
            {"bundle_digest": None, "plans": pb.PlanSettings(codes=b"x")},
            {"cohort": "os ="},
            {"stages_percent": []},
            {"stages_percent": [10]},
            {"stages_percent": [10, 10, 100]},
            {"stages_percent": [50, 10, 100]},
            {"stages_percent": [0, 100]},
            {"stages_percent": [0.001, 100]},
            {"stages_percent": [float("nan"), 100]},
            {"stages_percent": [100, 200]},
            {"stages_percent": [*range(1, 21), 100]},
            {"success_threshold": 0},
            {"success_threshold": 1.1},
            {"error_threshold": 0},
            {"error_threshold": float("nan")},
            {"min_reports": 0},
            {"min_reports": 10**6 + 1},
            {"min_stage_s": 30 * 24 * 3600 + 1},
        ],
    )
    def test_bounds(
        self,
        desk: AdminService,
        admin: AdminIdentity,
        candidate: ModelRecord,
        changes: dict[str, object],
    ) -> None:
        """A field out of its bounds is refused, and nothing starts."""
        with pytest.raises(RejectedError) as refusal:
            start_rollout(desk, request(candidate, **changes), admin)

        assert refusal.value.code == "INVALID_ARGUMENT"
        assert desk.store.list_rollouts() == []
        assert desk.store.list_audit(after=0, limit=10) == []


class TestChanges:
    def test_pause_resume_abort(
        self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord
    ) -> None:
        """Each change is made and written down."""
        rollout = start_rollout(desk, request(candidate), admin)

        paused = pause_rollout(desk, change(rollout, "lunch"), admin)
        resumed = resume_rollout(desk, change(rollout), admin)
        aborted = abort_rollout(desk, change(rollout, "bad reviews"), admin)
        assert [r.state for r in (paused, resumed, aborted)] == [
            pb.ROLLOUT_STATE_PAUSED,
            pb.ROLLOUT_STATE_RUNNING,
            pb.ROLLOUT_STATE_ABORTED,
        ]
        assert aborted.reason == "bad reviews"
        entries = desk.store.list_audit(after=1, limit=10)
        assert [(e.action, json.loads(e.details)["reason"]) for e in entries] == [
            ("PauseRollout", "lunch"),
            ("ResumeRollout", ""),
            ("AbortRollout", "bad reviews"),
        ]

    def test_refusals(
        self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord
    ) -> None:
        """What a state does not allow is refused, and not written down."""
        rollout = start_rollout(desk, request(candidate), admin)
        with pytest.raises(RejectedError) as refusal:
            resume_rollout(desk, change(rollout), admin)
        assert refusal.value.code == "FAILED_PRECONDITION"
        with pytest.raises(RejectedError) as refusal:
            pause_rollout(desk, pb.ChangeRolloutRequest(rollout_id="r-0"), admin)
        assert refusal.value.code == "NOT_FOUND"
        with pytest.raises(RejectedError) as refusal:
            pause_rollout(desk, change(rollout, "r" * 257), admin)
        assert refusal.value.code == "INVALID_ARGUMENT"

        assert len(desk.store.list_audit(after=0, limit=10)) == 1


class TestLooking:
    def test_progress(
        self,
        desk: AdminService,
        admin: AdminIdentity,
        candidate: ModelRecord,
        deployment: Deployment,
    ) -> None:
        """What devices say is counted by stage."""
        started = start_rollout(desk, request(candidate), admin)
        for number in range(9):
            desk.store.put_outcome(
                started.rollout_id, f"d-{number}", stage=0, outcome=Outcome.INSTALLED
            )
        desk.store.put_outcome(started.rollout_id, "d-9", stage=0, outcome=Outcome.FAILED)
        deployment.clock.now_s += 60
        judge_all(desk.store, desk.clock)

        asked = pb.GetRolloutRequest(rollout_id=started.rollout_id)
        rollout = get_rollout(desk, asked, admin)
        assert (rollout.stage, rollout.stages[0].n_succeeded, rollout.stages[0].n_failed) == (
            1,
            9,
            1,
        )
        assert rollout.stages[1].started_at_s == started.created_at_s + 60

    def test_list(self, desk: AdminService, admin: AdminIdentity, candidate: ModelRecord) -> None:
        """Rollouts are listed by model line, the oldest first."""
        first = start_rollout(desk, request(candidate), admin)
        abort_rollout(desk, change(first), admin)
        second = start_rollout(desk, request(candidate, request_id="second"), admin)

        listed = list_rollouts(desk, pb.ListRolloutsRequest(model_name="demo"), admin).rollouts
        assert [r.rollout_id for r in listed] == [first.rollout_id, second.rollout_id]
        assert not list_rollouts(desk, pb.ListRolloutsRequest(model_name="x"), admin).rollouts

    def test_unknown(self, desk: AdminService, admin: AdminIdentity) -> None:
        """A rollout that is not there is not found."""
        with pytest.raises(RejectedError, match="there is no rollout"):
            get_rollout(desk, pb.GetRolloutRequest(rollout_id="r"), admin)

    def test_states_are_all_known(self) -> None:
        """Every state of a record is one of the protocol, under the same name."""
        names = {state.name for state in RolloutState}
        known = {
            name.removeprefix("ROLLOUT_STATE_")
            for name in pb.RolloutState.DESCRIPTOR.values_by_name
        }

        assert names == known - {"UNSPECIFIED"}
