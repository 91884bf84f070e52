# SPDX-License-Identifier: Apache-2.0
"""Streams of plans over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.cloud.delivery.push.conftest import DEADLINE_S, Party, make_order

from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.plan import Plan, decode_plan

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

UNIFORM_4 = admin_pb.PlanSettings(planner="uniform-4")
UNIFORM_8 = admin_pb.PlanSettings(planner="uniform-8")


def subject(name: str) -> admin_pb.Audience:
    """Return one subject as an audience."""
    return admin_pb.Audience(subject=name)


def kinds(stream: Iterator[pb.WatchPlansResponse], number: int) -> list[str | None]:
    """Return what the next messages are."""
    return [next(stream).WhichOneof("event") for _ in range(number)]


def next_plan(stream: Iterator[pb.WatchPlansResponse]) -> tuple[int, Plan]:
    """Return the next plan and its sequence, heartbeats passed over."""
    for message in stream:
        if message.WhichOneof("event") == "plan":
            return message.sequence, decode_plan(message.plan)
    raise AssertionError("the stream ended without a plan")


def status_of(stream: Iterator[object]) -> grpc.StatusCode:
    """Return how a stream ends."""
    with pytest.raises(grpc.RpcError) as failure:
        list(stream)
    code: grpc.StatusCode = failure.value.code()  # type: ignore[attr-defined]
    return code


class TestStart:
    def test_device_that_has_seen_all_hears_a_heartbeat(self, party: Party) -> None:
        """The first message comes at once, and is no plan when there is nothing new."""
        message = next(party.watch(party.device()))

        assert (message.WhichOneof("event"), message.sequence) == ("heartbeat", 0)

    def test_device_that_missed_an_order_gets_its_plan_at_once(self, party: Party) -> None:
        """A push that nobody was there for is waiting."""
        party.push(settings=UNIFORM_4)

        sequence, plan = next_plan(party.watch(party.device(), "ann"))

        assert (sequence, plan.planner, plan.subject) == (1, "uniform-4", "ann")

    def test_device_that_comes_back_does_not_get_it_again(self, party: Party) -> None:
        """Who says that it has seen the newest order and its plan hears a heartbeat."""
        party.push(settings=UNIFORM_4)
        device = party.device()
        sequence, plan = next_plan(party.watch(device, "ann"))

        again = party.watch(device, "ann", last_sequence=sequence, installed_version=plan.version)

        assert kinds(again, 1) == ["heartbeat"]

    def test_device_without_a_token_may_not_watch(self, party: Party) -> None:
        """The stream asks for the same token as every call."""
        stream = party.stub.WatchPlans(pb.WatchPlansRequest(), timeout=DEADLINE_S)

        assert status_of(stream) is grpc.StatusCode.UNAUTHENTICATED

    def test_unknown_model_ends_the_stream(self, party: Party) -> None:
        """What no plan can be made for is refused, once a plan is asked for."""
        party.push(settings=UNIFORM_4)
        plan = pb.GetPlanRequest(model_digest=b"x" * 32)
        stream = party.stub.WatchPlans(
            pb.WatchPlansRequest(plan=plan), metadata=party.device().metadata, timeout=DEADLINE_S
        )

        assert status_of(stream) is grpc.StatusCode.NOT_FOUND


class TestPush:
    def test_watcher_gets_what_is_pushed(self, party: Party) -> None:
        """A push comes as a signed plan with the order's sequence."""
        stream = party.watch(party.device(), "ann")
        next(stream)

        response = party.push(settings=UNIFORM_4)
        sequence, plan = next_plan(stream)

        assert (response.sequence, response.n_watching) == (1, 1)
        assert (sequence, plan.planner) == (1, "uniform-4")

    def test_only_the_audience_hears_of_it(self, party: Party) -> None:
        """An order for one subject wakes nobody else."""
        ann, bob = (party.watch(party.device(), name) for name in ("ann", "bob"))
        next(ann), next(bob)

        n_watching = party.push(settings=UNIFORM_4, audience=subject("ann")).n_watching
        party.push(settings=UNIFORM_8, audience=subject("bob"))

        assert n_watching == 1
        assert next_plan(ann)[1].planner == "uniform-4"
        assert next_plan(bob)[1].planner == "uniform-8"

    def test_cohort_is_decided_by_what_devices_declared(self, party: Party) -> None:
        """The rule is on the facts of the registration."""
        new = party.watch(party.device(app_version="3.0"), "ann")
        old = party.watch(party.device(app_version="2.0"), "bob")
        next(new), next(old)
        cohort = admin_pb.Audience(cohort="app_version >= 3.0")

        n_watching = party.push(settings=UNIFORM_4, audience=cohort).n_watching
        party.push(settings=UNIFORM_8, audience=subject("bob"))

        assert n_watching == 1
        assert next_plan(new)[1].planner == "uniform-4"
        assert next_plan(old)[1].planner == "uniform-8"

    def test_cancelled_push_brings_the_plan_of_before(self, party: Party) -> None:
        """The plan comes back as a new version: devices go forward only."""
        stream = party.watch(party.device(), "ann")
        next(stream)
        sequence = party.push(settings=UNIFORM_4).sequence
        _, pushed = next_plan(stream)

        request = admin_pb.CancelPushRequest(sequence=sequence)
        party.admin.CancelPush(request, metadata=party.admin_metadata, timeout=DEADLINE_S)
        _, plan = next_plan(stream)

        assert (plan.planner, plan.version) == ("global", pushed.version + 1)

    def test_order_of_another_process_is_heard(self, party: Party, deployment: Deployment) -> None:
        """Several servers share one store: what one is told, all do."""
        stream = party.watch(party.device(), "ann")
        next(stream)

        deployment.database.add_order(make_order(0))

        assert next_plan(stream)[1].planner == "uniform-4"

    def test_order_that_cannot_be_obeyed_is_passed_over(self, party: Party) -> None:
        """A planner that this model does not have changes nothing."""
        stream = party.watch(party.device(), "ann")
        next(stream)

        party.push(settings=admin_pb.PlanSettings(planner="personal"))

        assert next_plan(stream)[1].planner == "global"


class TestNews:
    def test_heartbeats_come_while_nothing_happens(self, make_party: Callable[..., Party]) -> None:
        """Silence would not tell a quiet server from a dead one."""
        party = make_party(heartbeat_s=0.01)

        assert kinds(party.watch(party.device()), 3) == ["heartbeat"] * 3

    def test_publication_is_told_to_those_who_follow_the_model(
        self, make_party: Callable[..., Party], deployment: Deployment
    ) -> None:
        """Whoever named a model line hears of another bundle, and finds it there."""
        party = make_party(targets_check_s=0.01, targets_spread_s=0.001)
        stream = party.watch(party.device(), model_name="demo")
        next(stream)

        published = deployment.publish(deployment.bundle(version=2))

        assert kinds(stream, 1) == ["targets_changed"]
        client = deployment.tuf_client()
        client.refresh()
        manifest = client.get_targetinfo("demo/manifest.pb")
        assert manifest is not None
        assert manifest.hashes["sha256"] == published.bundle_digest.hex()


class TestEnd:
    def test_newer_stream_of_a_device_ends_the_older(self, party: Party) -> None:
        """A device that lost its connection may not know it, and dials again."""
        device = party.device()
        older = party.watch(device)
        next(older)

        next(party.watch(device))

        assert status_of(older) is grpc.StatusCode.ABORTED

    def test_revoked_device_is_hung_up_on(
        self, make_party: Callable[..., Party], deployment: Deployment
    ) -> None:
        """Its token does not count any more, which ends the stream as well."""
        party = make_party(session_check_s=0.01)
        device = party.device()
        stream = party.watch(device)
        next(stream)

        deployment.database.revoke_device(device.device_id, 1)

        assert status_of(stream) is grpc.StatusCode.UNAUTHENTICATED

    def test_stream_ends_with_its_token(self, party: Party, deployment: Deployment) -> None:
        """A token that has ended by the time the stream looks is no token."""
        device = party.device()
        deployment.clock.now_s += device.lifetime_s

        assert status_of(party.watch(device)) is grpc.StatusCode.UNAUTHENTICATED

    def test_full_server_refuses(self, make_party: Callable[..., Party]) -> None:
        """Streams are bounded, apart from calls."""
        party = make_party(max_streams=1)
        next(party.watch(party.device()))

        assert status_of(party.watch(party.device())) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert party.device().token

    def test_stopping_server_says_when_to_come_back(
        self, make_party: Callable[..., Party], deployment: Deployment
    ) -> None:
        """Streams end well, each with a pause of its own."""
        party = make_party(pause_s=5.0)
        stream = party.watch(party.device())
        next(stream)
        party.stop()

        message = next(stream)

        assert message.WhichOneof("event") == "going_away"
        assert 0 <= message.going_away.pause_ms <= 5000
        assert list(stream) == []
