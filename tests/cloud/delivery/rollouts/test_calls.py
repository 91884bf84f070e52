# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cloud.delivery.conftest import Deployment
from tests.cloud.delivery.rollouts.records import BAD, GOOD, make_rollout

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.records import Outcome, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.buckets import bucket_of
from pocketrec_cloud.delivery.rollouts.calls import get_targets, report_status
from pocketrec_cloud.delivery.rollouts.desk import RolloutDesk
from pocketrec_proto.v1 import device_service_pb2 as pb

DEVICES = [f"device-{number}" for number in range(2000)]
FIRST = [device for device in DEVICES if bucket_of("r-1", device) < 1]
LAST = [device for device in DEVICES if bucket_of("r-1", device) > 50]


def report(**changes: object) -> pb.ReportStatusRequest:
    """A report that the bad bundle was installed, unless changed."""
    fields: dict[str, object] = {
        "model_name": "demo",
        "bundle_digest": BAD,
        "attempted_bundle_digest": BAD,
        "plan_version": 3,
        "outcome": pb.UPDATE_OUTCOME_INSTALLED,
    }
    return pb.ReportStatusRequest(**fields | changes)


RUNNING = {"outcome": pb.UPDATE_OUTCOME_RUNNING, "attempted_bundle_digest": b""}
UNHEALTHY = {
    "outcome": pb.UPDATE_OUTCOME_UNHEALTHY,
    "bundle_digest": GOOD,
    "error": "HealthCheckError",
}


@pytest.fixture
def rollout(deployment: Deployment) -> RolloutRecord:
    """A running rollout of the bad bundle."""
    rollout = make_rollout()
    deployment.database.add_rollout(rollout)
    return rollout


class TestReportStatus:
    def test_remembered(self, desk: RolloutDesk) -> None:
        """The last report of a device is kept, with or without a rollout."""
        report_status(desk, report(), "device-1")
        report_status(desk, report(**UNHEALTHY), "device-1")

        status = desk.store.find_statuses(["device-1"], "demo")["device-1"]
        assert (status.outcome, status.error) == (Outcome.UNHEALTHY, "HealthCheckError")
        assert (status.bundle_digest, status.attempted_bundle_digest) == (GOOD, BAD)

    def test_counted_once(self, desk: RolloutDesk, rollout: RolloutRecord) -> None:
        """A device counts once, with what it said last."""
        report_status(desk, report(), FIRST[0])
        report_status(desk, report(**RUNNING), FIRST[0])
        report_status(desk, report(**UNHEALTHY), FIRST[1])

        expected = {0: {Outcome.RUNNING: 1, Outcome.UNHEALTHY: 1}}
        assert desk.store.count_outcomes("r-1") == expected

    def test_not_in_a_stage(self, desk: RolloutDesk, rollout: RolloutRecord) -> None:
        """Who has the bundle although its stage has not begun does not count."""
        report_status(desk, report(), LAST[0])

        assert desk.store.count_outcomes("r-1") == {}

    def test_not_about_it(self, desk: RolloutDesk, rollout: RolloutRecord) -> None:
        """Reports about another bundle, or another model line, do not count."""
        for changes in (
            {"bundle_digest": GOOD, "attempted_bundle_digest": GOOD},
            {"bundle_digest": GOOD, **RUNNING},
            {"model_name": "other"},
        ):
            report_status(desk, report(**changes), FIRST[0])

        assert desk.store.count_outcomes("r-1") == {}

    def test_the_devices_own_stage(self, desk: RolloutDesk) -> None:
        """A device counts in the stage that it belongs to, also when later ones have begun."""
        desk.store.add_rollout(make_rollout(stage=2, stages_started_at_s=(1, 2, 3)))
        report_status(desk, report(), FIRST[0])
        report_status(desk, report(), LAST[0])

        expected = {0: {Outcome.INSTALLED: 1}, 2: {Outcome.INSTALLED: 1}}
        assert desk.store.count_outcomes("r-1") == expected

    def test_failures_are_judged_at_once(self, desk: RolloutDesk, rollout: RolloutRecord) -> None:
        """The report that passes the error threshold stops the rollout."""
        for device in FIRST[:4]:
            report_status(desk, report(), device)
        report_status(desk, report(**UNHEALTHY), FIRST[4])

        stopped = desk.store.find_rollout("r-1")
        assert stopped is not None
        assert stopped.state is RolloutState.STOPPED

    def test_an_ended_rollout(self, desk: RolloutDesk, rollout: RolloutRecord) -> None:
        """What devices say when they went back does not count any more."""
        ended = replace(rollout, state=RolloutState.ABORTED, revision=2)
        desk.store.swap_rollout(ended, replaces=1)
        report_status(desk, report(outcome=pb.UPDATE_OUTCOME_REVERTED), FIRST[0])

        assert desk.store.count_outcomes("r-1") == {}

    def test_plan_settings(self, desk: RolloutDesk) -> None:
        """Any report counts for plan settings, as a success only with a plan of one's own."""
        desk.store.add_rollout(make_rollout(bundle_digest=b"", average_bits=2.5))
        report_status(desk, report(bundle_digest=GOOD, **RUNNING), FIRST[0])
        report_status(desk, report(bundle_digest=GOOD, plan_version=0, **RUNNING), FIRST[1])
        report_status(desk, report(outcome=pb.UPDATE_OUTCOME_FAILED, plan_version=0), FIRST[2])

        expected = {0: {Outcome.RUNNING: 1, Outcome.FAILED: 1}}
        assert desk.store.count_outcomes("r-1") == expected

    def test_latencies_are_passed_on(self, desk: RolloutDesk) -> None:
        """Who listens hears how long calls took."""
        heard: list[tuple[str, list[int]]] = []
        desk = replace(desk, on_latency=lambda model, h: heard.append((model, list(h.counts))))
        latency = pb.LatencyHistogram(bounds_us=[50, 100], counts=[3, 2, 1])
        report_status(desk, report(rerank_latency=latency), "device-1")
        report_status(desk, report(), "device-1")

        assert heard == [("demo", [3, 2, 1])]

    @pytest.mark.parametrize(
        "changes",
        [
            {"model_name": "a/b"},
            {"model_name": ""},
            {"bundle_digest": bytes(31)},
            {"attempted_bundle_digest": bytes(33)},
            {"attempted_bundle_digest": b""},
            {"outcome": pb.UPDATE_OUTCOME_RUNNING},
            {"outcome": pb.UPDATE_OUTCOME_UNSPECIFIED},
            {"outcome": 77},
            {"plan_version": 2**53},
            {"error": "no such file: /home/u"},
            {"error": "E" * 65},
            {"rerank_latency": {"bounds_us": [2, 1], "counts": [0, 0, 0]}},
            {"rerank_latency": {"bounds_us": [1, 2], "counts": [0, 0]}},
            {"rerank_latency": {"bounds_us": range(33), "counts": [0] * 34}},
            {"rerank_latency": {"bounds_us": [1], "counts": [0, 2**63]}},
        ],
    )
    def test_bounds(self, desk: RolloutDesk, changes: dict[str, object]) -> None:
        """A field out of its bounds is refused, and nothing is remembered."""
        with pytest.raises(RejectedError) as refusal:
            report_status(desk, report(**changes), "device-1")

        assert refusal.value.code == "INVALID_ARGUMENT"
        assert desk.store.find_statuses(["device-1"], "demo") == {}

    def test_rate(self, desk: RolloutDesk) -> None:
        """One device cannot keep the server busy; another one is not kept from reporting."""
        desk = replace(desk, reported=RateLimiter(2, lambda: 0.0))
        for _ in range(2):
            report_status(desk, report(), "device-1")

        with pytest.raises(RejectedError) as refusal:
            report_status(desk, report(), "device-1")
        assert refusal.value.code == "RESOURCE_EXHAUSTED"
        report_status(desk, report(), "device-2")


class TestGetTargets:
    def test_empty(self, desk: RolloutDesk) -> None:
        """Without rollouts there is nothing to say."""
        request = pb.GetTargetsRequest(model_name="demo")

        assert get_targets(desk, request, "device-1").assignment == b""

    def test_bounds(self, desk: RolloutDesk) -> None:
        """A field out of its bounds is refused."""
        for request in (
            pb.GetTargetsRequest(model_name="a/b"),
            pb.GetTargetsRequest(model_name="demo", bundle_digest=bytes(3)),
        ):
            with pytest.raises(RejectedError) as refusal:
                get_targets(desk, request, "device-1")
            assert refusal.value.code == "INVALID_ARGUMENT"

    def test_rate(self, desk: RolloutDesk) -> None:
        """One device cannot ask without end."""
        desk = replace(desk, asked=RateLimiter(1, lambda: 0.0))
        request = pb.GetTargetsRequest(model_name="demo")
        get_targets(desk, request, "device-1")

        with pytest.raises(RejectedError) as refusal:
            get_targets(desk, request, "device-1")
        assert refusal.value.code == "RESOURCE_EXHAUSTED"
