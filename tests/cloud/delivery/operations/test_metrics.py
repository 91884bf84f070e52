# SPDX-License-Identifier: Apache-2.0
"""The numbers of a server process."""

from __future__ import annotations

import grpc
import pytest
from tests.cloud.delivery.operations.scripted_service import ScriptedService, call

from pocketrec import __version__
from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.operations.metrics import Metrics
from pocketrec_cloud.delivery.operations.observing import ObservingInterceptor
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub


@pytest.fixture
def metrics() -> Metrics:
    """Numbers of a process that has done nothing yet."""
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return one number; None while there is none."""
    return metrics.registry.get_sample_value(f"pocketrec_{name}", labels)


class TestCalls:
    def test_calls_are_counted_by_status(self, metrics: Metrics) -> None:
        """Method and status of a call tell its counter; its time is in the histogram."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> None:
            stub = DeviceServiceStub(channel)
            await stub.GetPlan(pb.GetPlanRequest())
            await stub.GetPlan(pb.GetPlanRequest(subject="ann"))
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetPlan(pb.GetPlanRequest(subject="refused"))

        call([ObservingInterceptor([metrics])], use)

        assert value(metrics, "calls_total", method="GetPlan", status="OK") == 2
        assert value(metrics, "calls_total", method="GetPlan", status="NOT_FOUND") == 1
        assert value(metrics, "call_seconds_count", method="GetPlan") == 3
        assert value(metrics, "calls_in_flight", method="GetPlan") == 0

    def test_streams_are_open_until_they_end(self, metrics: Metrics) -> None:
        """Who watches is counted while watching, and what was pushed afterwards."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> float | None:
            stream = DeviceServiceStub(channel).WatchPlans(pb.WatchPlansRequest())
            await stream.read()
            await service.waiting.wait()
            n_open = value(metrics, "streams_open", method="WatchPlans")
            stream.cancel()
            return n_open

        assert call([ObservingInterceptor([metrics])], use) == 1
        assert value(metrics, "streams_open", method="WatchPlans") == 0
        assert value(metrics, "watch_events_total", event="plan") == 1

    def test_labels_are_bounded(self, metrics: Metrics) -> None:
        """However many subjects and made-up methods come, there are no more numbers."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> None:
            await DeviceServiceStub(channel).GetPlan(pb.GetPlanRequest())
            n_before = len(samples(metrics))
            for number in range(20):
                request = pb.GetPlanRequest(subject=f"user-{number}")
                await DeviceServiceStub(channel).GetPlan(request)
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary(f"/pocketrec.v1.DeviceService/Made{number}")(b"")
            assert len(samples(metrics)) == n_before

        call([ObservingInterceptor([metrics])], use)


def samples(metrics: Metrics) -> list[object]:
    """Return every number with its labels."""
    return [
        (sample.name, tuple(sample.labels.items()))
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("pocketrec_")
    ]


class TestParts:
    def test_plans(self, metrics: Metrics) -> None:
        """A batch counts what became of each request, and what was signed."""
        metrics.plans_issued([b"plan", b"", b"plan", StoreError("gone")], n_signed=1)

        assert value(metrics, "plans_total", outcome="sent") == 2
        assert value(metrics, "plans_total", outcome="current") == 1
        assert value(metrics, "plans_total", outcome="failed") == 1
        assert value(metrics, "plans_signed_total") == 1
        assert value(metrics, "plan_batch_size_sum") == 4

    def test_store_errors(self, metrics: Metrics) -> None:
        """A failure of the store is counted, and goes on."""
        with pytest.raises(StoreError), metrics.storing("swap_plans"):
            raise StoreError("gone")
        with metrics.storing("swap_plans"):
            pass

        assert value(metrics, "store_errors_total", operation="swap_plans") == 1
        assert value(metrics, "store_seconds_count", operation="swap_plans") == 2

    def test_build(self, metrics: Metrics) -> None:
        """The version is a label of a constant."""
        (info,) = [
            sample
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == "pocketrec_build_info"
        ]
        assert info.labels["version"] == __version__

    def test_registries_are_apart(self, metrics: Metrics) -> None:
        """Two servers in one process count for themselves."""
        metrics.fault_made("drop")

        assert value(Metrics(), "chaos_faults_total", fault="drop") is None
