# SPDX-License-Identifier: Apache-2.0
"""Devices that are assigned a bundle: they get it, leave it, and tell how it went if asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.device.rollouts import Rollouts
from tests.device.unharmed import HISTORY, ranking_of

from pocketrec.errors import HealthCheckError, RollbackError, StoreError
from pocketrec_cloud.delivery.records import (
    AudienceKind,
    DeviceStatusRecord,
    OrderRecord,
    Outcome,
    RolloutState,
)
from pocketrec_device import Runtime
from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import VECTORS, BundleFolder
from pocketrec_quantization.vectors import TestVectors

if TYPE_CHECKING:
    from tests.device.conftest import Deployment
    from tests.device.man_in_the_middle import ManInTheMiddle

    from pocketrec_proto.v1 import device_service_pb2 as pb
    from pocketrec_quantization.item_table import ItemTable

MakeBundle = Callable[..., BundleFolder]
ReportsOf = Callable[[Runtime], DeviceStatusRecord]


@pytest.fixture
def rollouts(deployment: Deployment) -> Rollouts:
    """The rollouts of the deployment that the device follows."""
    return Rollouts(deployment)


@pytest.fixture
def candidate(deployment: Deployment, make_bundle: MakeBundle) -> BundleFolder:
    """Version 2: other weights; published, and nobody's current bundle."""
    bundle = make_bundle(version=2, seed=1)
    deployment.publish(bundle, is_candidate=True)
    return bundle


@pytest.fixture
def reporting(tmp_path: Path, deployment: Deployment, middle: ManInTheMiddle) -> Runtime:
    """A device with version 1 that reports."""
    store = Store(tmp_path / "reporting")
    store.create("demo", deployment.root)
    device = Runtime(store, EngineSettings(backend="numpy"), report_status=True)
    device.sync(middle.target)
    device.observe_many(HISTORY)
    return device


@pytest.fixture
def reports(deployment: Deployment) -> ReportsOf:
    """Returns what a device reported last."""

    def last(device: Runtime) -> DeviceStatusRecord:
        device_id = device.status().device_id
        with deployment.storage() as storage:
            return storage.database.find_statuses([device_id], "demo")[device_id]

    return last


def push(deployment: Deployment) -> None:
    """Order plans of two bits for everybody."""
    order = OrderRecord(
        sequence=0,
        request_id="push",
        audience=AudienceKind.EVERYBODY,
        audience_value="",
        model_digest=b"",
        planner="uniform-2",
        average_bits=2.0,
        codes=b"",
        created_at_s=1,
        expires_at_s=0,
        admin="ada",
    )
    with deployment.storage() as storage:
        storage.database.add_order(order)


def broken_vectors(bundle: BundleFolder) -> bytes:
    """Test vectors whose scores no device computes."""
    vectors = TestVectors.from_bytes(bundle.read(VECTORS))
    cases = tuple(
        type(case)(history=case.history, candidates=case.candidates, scores=case.scores + 1)
        for case in vectors.cases
    )
    return TestVectors(cases=cases, tolerance=vectors.tolerance).to_bytes()


class TestAssigned:
    def test_nothing_without_a_rollout(
        self, device: Runtime, middle: ManInTheMiddle, candidate: BundleFolder
    ) -> None:
        """A candidate that no rollout brings is nobody's business."""
        assert device.sync(middle.target).bundle_version == 1

    def test_in_a_stage(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """A device of a stage that has begun gets the bundle, another one does not."""
        rollout = rollouts.start(candidate, stages_percent=(0.01, 100.0))
        assert device.sync(middle.target).bundle_version == 1
        rollouts.end(rollout, RolloutState.ABORTED)
        rollouts.start(candidate)

        assert device.sync(middle.target).bundle_version == 2
        assert device.sync(middle.target).is_bundle_new is False

    def test_finished_then_promoted(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
        make_bundle: MakeBundle,
        deployment: Deployment,
    ) -> None:
        """A finished rollout holds, and the next publication takes its place."""
        rollouts.end(rollouts.start(candidate), RolloutState.FINISHED)
        assert device.sync(middle.target).bundle_version == 2
        deployment.publish(make_bundle(version=3, seed=2))

        assert device.sync(middle.target).bundle_version == 3

    def test_cohort(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """A device that declared something else keeps what it has."""
        rollouts.start(candidate, cohort="os = Amiga")

        assert device.sync(middle.target).bundle_version == 1

    def test_a_server_without_rollouts(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """An older server, which does not know the call, is synced with as ever."""
        deployment.publish(make_bundle(version=2, seed=1))
        middle.unknown.add("GetTargets")

        assert device.sync(middle.target).bundle_version == 2


class TestWithdrawn:
    def test_back_without_a_download(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """A device leaves what was taken back, fetches no part, and ranks as before."""
        before = ranking_of(device)
        rollout = rollouts.start(candidate)
        device.sync(middle.target)
        assert ranking_of(device) != before
        rollouts.end(rollout, RolloutState.STOPPED)

        report = device.sync(middle.target)
        assert (report.bundle_version, report.is_bundle_new) == (1, True)
        assert (report.parts_downloaded, report.bytes_downloaded) == (0, 0)
        assert ranking_of(device) == before
        assert device.sync(middle.target).is_bundle_new is False

    def test_stays_personal(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        make_items: Callable[..., ItemTable],
        rollouts: Rollouts,
    ) -> None:
        """A plan for the user goes with it there and back, and is not fetched again."""
        first = device.sync(middle.target, subject="u-1")
        newer = make_bundle(version=2, items=make_items(2))  # same weights
        deployment.publish(newer, is_candidate=True)
        rollout = rollouts.start(newer)
        assert device.sync(middle.target, subject="u-1").plan_version == first.plan_version
        rollouts.end(rollout, RolloutState.ABORTED)

        report = device.sync(middle.target, subject="u-1")
        assert (report.bundle_version, report.plan_version) == (1, first.plan_version)
        status = device.status().current
        assert status is not None
        assert status.subject == "u-1"

    def test_the_next_try(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """After a bundle was taken back, a better one is installed like any other."""
        rollout = rollouts.start(candidate)
        device.sync(middle.target)
        rollouts.end(rollout, RolloutState.STOPPED)
        device.sync(middle.target)
        better = make_bundle(version=3, seed=2)
        deployment.publish(better, is_candidate=True)
        rollouts.start(better)

        assert device.sync(middle.target).bundle_version == 3

    def test_missed_the_stop(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """A device that was away while a bundle was taken back goes on to the newer one."""
        rollout = rollouts.start(candidate)
        device.sync(middle.target)
        rollouts.end(rollout, RolloutState.STOPPED)
        deployment.publish(make_bundle(version=3, seed=2))

        assert device.sync(middle.target).bundle_version == 3

    def test_not_by_the_app_either(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """Neither a packaged copy nor the app's way back brings it again."""
        rollout = rollouts.start(candidate)
        device.sync(middle.target)
        rollouts.end(rollout, RolloutState.STOPPED)
        device.sync(middle.target)

        assert device.bootstrap(candidate.path) is False
        with pytest.raises(StoreError, match="no previous pair"):
            device.rollback()


class TestReports:
    def test_off_by_default(self, device: Runtime, middle: ManInTheMiddle) -> None:
        """An app that did not opt in tells nothing."""
        device.sync(middle.target)

        assert middle.requests("ReportStatus") == []

    def test_installed(
        self,
        reporting: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """A device that got the bundle of a rollout counts as a success, once."""
        rollout = rollouts.start(candidate, min_reports=2)  # so that one does not end it
        for _ in range(2):
            reporting.sync(middle.target)

        assert rollouts.outcomes(rollout) == {0: {Outcome.RUNNING: 1}}
        outcomes = [message.outcome for message in middle.requests("ReportStatus")]
        assert outcomes == [2, 2, 1]  # installed version 1, then 2, then running

    def test_unhealthy(
        self,
        reporting: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        rollouts: Rollouts,
    ) -> None:
        """Test vectors that do not come out are told; one such report stops a rollout of one."""
        good = make_bundle(version=2, seed=1)
        bad = make_bundle(version=3, seed=1, parts={VECTORS: broken_vectors(good)})
        deployment.publish(bad, is_candidate=True)
        rollout = rollouts.start(bad)

        with pytest.raises(HealthCheckError):
            reporting.sync(middle.target)
        message = middle.requests("ReportStatus")[-1]
        assert (message.outcome, message.error) == (3, "HealthCheckError")
        assert message.attempted_bundle_digest == bad.digest
        assert rollouts.now(rollout).state is RolloutState.STOPPED
        assert reporting.sync(middle.target).bundle_version == 1

    def test_damaged(
        self,
        reporting: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """A bundle that cannot be fetched whole is told as failed, with the error's name."""
        rollouts.start(candidate)

        def flip(request: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            if request.target_path.startswith("parts/"):
                answer.content = bytes([answer.content[0] ^ 1]) + answer.content[1:]

        middle.meddle["FetchChunk"] = flip
        with pytest.raises(Exception, match="damaged"):
            reporting.sync(middle.target)

        message = middle.requests("ReportStatus")[-1]
        assert (message.outcome, message.error) == (4, "IntegrityError")

    def test_out_of_reach_says_nothing(
        self,
        reporting: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """A download that stalls says nothing about the bundle, so it is not reported."""
        rollouts.start(candidate)
        n_before = len(middle.requests("ReportStatus"))

        def stall(_: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            raise TimeoutError

        middle.meddle["FetchChunk"] = stall
        with pytest.raises(Exception, match="FetchChunk"):
            reporting.sync(middle.target)

        assert len(middle.requests("ReportStatus")) == n_before

    def test_taken_back(
        self,
        reporting: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """Going back is told, with the bundle that was left."""
        rollout = rollouts.start(candidate)
        reporting.sync(middle.target)
        rollouts.end(rollout, RolloutState.ABORTED)
        reporting.sync(middle.target)

        message = middle.requests("ReportStatus")[-1]
        assert (message.outcome, message.attempted_bundle_digest) == (5, candidate.digest)

    def test_the_app_went_back(
        self,
        reporting: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """An app that rolls back speaks against the bundle: the device's success is gone."""
        rollout = rollouts.start(candidate, error_threshold=1.0, min_reports=2)
        reporting.sync(middle.target)
        reporting.rollback()
        report = reporting.sync(middle.target)

        assert report.is_held_back
        assert rollouts.outcomes(rollout) == {0: {Outcome.REVERTED: 1}}

    def test_what_is_told(self, reporting: Runtime, middle: ManInTheMiddle) -> None:
        """A report has digests, versions and counts; neither items nor a pseudonym."""
        for _ in range(3):
            ranking_of(reporting)
        reporting.sync(middle.target, subject="somebody")

        message = middle.requests("ReportStatus")[-1]
        assert sum(message.rerank_latency.counts) == 3
        assert message.plan_version > 0
        assert b"somebody" not in message.SerializeToString()
        reporting.sync(middle.target, subject="somebody")
        assert not middle.requests("ReportStatus")[-1].HasField("rerank_latency")

    def test_a_pushed_plan(
        self, tmp_path: Path, deployment: Deployment, reports: ReportsOf
    ) -> None:
        """A plan that comes by the stream is told as installed, like one of a sync."""
        store = Store(tmp_path / "watching")
        store.create("demo", deployment.root)
        device = Runtime(store, EngineSettings(backend="numpy"), report_status=True)
        with deployment.serve() as target:
            device.sync(target)
            before = reports(device)
            push(deployment)
            with device.watch(target):
                never = threading.Event()
                for _ in range(400):  # a store is asked for news every two seconds
                    if reports(device) != before:
                        break
                    never.wait(0.05)

        after = reports(device)
        assert after.outcome is Outcome.INSTALLED
        assert after.plan_version > before.plan_version

    def test_a_lost_report(self, reporting: Runtime, middle: ManInTheMiddle) -> None:
        """A report that is lost makes no sync fail, and its counts are told the next time."""
        ranking_of(reporting)

        def lose(*_: object) -> None:
            raise TimeoutError

        middle.meddle["ReportStatus"] = lose
        reporting.sync(middle.target)
        middle.meddle.clear()
        reporting.sync(middle.target)

        assert sum(middle.requests("ReportStatus")[-1].rerank_latency.counts) == 1


class TestFloors:
    def test_no_way_back_without_a_withdrawal(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        candidate: BundleFolder,
        rollouts: Rollouts,
    ) -> None:
        """An answer without an assignment does not lead back to the current bundle."""
        rollouts.start(candidate)
        device.sync(middle.target)
        middle.meddle["GetTargets"] = lambda _, answer: answer.ClearField("assignment")

        with pytest.raises(RollbackError, match="above version 2"):
            device.sync(middle.target)
