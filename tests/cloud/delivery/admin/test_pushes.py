# SPDX-License-Identifier: Apache-2.0
"""Giving, taking back and listing orders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.admin import pushes
from pocketrec_cloud.delivery.admin.pushes import cancel_push, list_pushes, push_plan
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService
from pocketrec_proto.v1 import admin_service_pb2 as pb

if TYPE_CHECKING:
    from tests.cloud.delivery.admin.conftest import AdminClock

    from pocketrec_cloud.delivery.stores.memory import MemoryStore

EVERYBODY = pb.Audience(everybody=pb.Everybody())
SETTINGS = pb.PlanSettings(planner="uniform-4")


def request(**fields: object) -> pb.PushPlanRequest:
    """Return a push to everybody, unless told otherwise."""
    values = {"audience": EVERYBODY, "settings": SETTINGS, "request_id": "one"} | fields
    return pb.PushPlanRequest(**values)  # type: ignore[arg-type]


class TestPushPlan:
    def test_order_is_stored_and_written_down(
        self, service: AdminService, admin: AdminIdentity, store: MemoryStore
    ) -> None:
        """The audit log says who pushed what to whom."""
        response = push_plan(service, request(lifetime_s=3600), admin)

        (order,) = store.list_orders(after=0)
        (entry,) = store.list_audit(after=0, limit=10)
        assert (response.sequence, order.planner, order.admin) == (1, "uniform-4", "olga")
        assert order.expires_at_s - order.created_at_s == 3600
        assert (entry.action, entry.subject) == ("PushPlan", "1")
        assert json.loads(entry.details)["audience"] == "everybody"

    def test_same_request_changes_nothing(
        self, service: AdminService, admin: AdminIdentity, store: MemoryStore
    ) -> None:
        """A call whose answer was lost can be repeated."""
        first, second = (push_plan(service, request(), admin) for _ in range(2))

        assert first == second
        assert len(store.list_audit(after=0, limit=10)) == 1

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"audience": None}, "audience"),
            ({"audience": pb.Audience(subject="")}, "subject"),
            ({"audience": pb.Audience(cohort="")}, "cohort"),
            ({"audience": pb.Audience(cohort="os >")}, "cohort"),
            ({"settings": pb.PlanSettings()}, "settings"),
            ({"settings": pb.PlanSettings(planner="no name")}, "planner"),
            ({"settings": pb.PlanSettings(average_bits=1.5)}, "average_bits"),
            ({"settings": pb.PlanSettings(average_bits=float("nan"))}, "average_bits"),
            ({"settings": pb.PlanSettings(codes=b"x")}, "codes"),
            ({"model_digest": b"short"}, "model_digest"),
            ({"lifetime_s": 2**40}, "lifetime_s"),
            ({"request_id": ""}, "request_id"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self,
        service: AdminService,
        admin: AdminIdentity,
        store: MemoryStore,
        fields: dict[str, object],
        words: str,
    ) -> None:
        """The message names the field, and nothing is stored."""
        with pytest.raises(RejectedError, match=words) as refusal:
            push_plan(service, request(**fields), admin)

        assert refusal.value.code == "INVALID_ARGUMENT"
        assert store.list_orders(after=0) == []

    def test_orders_that_hold_are_bounded(
        self, service: AdminService, admin: AdminIdentity, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every process keeps all that hold in memory."""
        monkeypatch.setattr(pushes, "MAX_ORDERS", 1)
        push_plan(service, request(), admin)

        with pytest.raises(RejectedError, match="cancel") as refusal:
            push_plan(service, request(request_id="two"), admin)

        assert refusal.value.code == "RESOURCE_EXHAUSTED"


class TestCancelPush:
    def test_cancelled_push_is_listed_no_more(
        self, service: AdminService, admin: AdminIdentity, store: MemoryStore
    ) -> None:
        """Taking it back twice changes nothing more."""
        sequence = push_plan(service, request(), admin).sequence

        for _ in range(2):
            cancel_push(service, pb.CancelPushRequest(sequence=sequence), admin)

        assert list(list_pushes(service, pb.ListPushesRequest(), admin).pushes) == []
        actions = [entry.action for entry in store.list_audit(after=0, limit=10)]
        assert actions == ["PushPlan", "CancelPush"]

    @pytest.mark.parametrize("sequence", [0, 2, 2**63])
    def test_push_that_never_was_cannot_be_cancelled(
        self, service: AdminService, admin: AdminIdentity, sequence: int
    ) -> None:
        """A number that is no push's is refused; so is that of a cancellation."""
        first = push_plan(service, request(), admin).sequence
        cancel_push(service, pb.CancelPushRequest(sequence=first), admin)

        with pytest.raises(RejectedError) as refusal:
            cancel_push(service, pb.CancelPushRequest(sequence=sequence), admin)

        assert refusal.value.code == "NOT_FOUND"


class TestListPushes:
    def test_push_comes_back_as_it_was_given(
        self, service: AdminService, admin: AdminIdentity, clock: AdminClock
    ) -> None:
        """Cohorts come in one spelling; expired pushes do not come at all."""
        push_plan(service, request(audience=pb.Audience(cohort="os=Android")), admin)
        push_plan(service, request(request_id="two", lifetime_s=1), admin)
        clock.now_s += 1

        (entry,) = list_pushes(service, pb.ListPushesRequest(), admin).pushes

        assert entry.audience.cohort == "os = Android"
        assert (entry.sequence, entry.settings, entry.admin) == (1, SETTINGS, "olga")
