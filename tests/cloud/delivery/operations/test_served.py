# SPDX-License-Identifier: Apache-2.0
"""A whole server as its operator sees it: pages over HTTP, and the gRPC health service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.cloud.delivery.devices import register_device

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.faults import ChaosSettings
from pocketrec_cloud.delivery.serving.server import DeliveryServer, Listening
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

T = TypeVar("T")
TIMEOUT_S = 20.0
SERVICE = "pocketrec.v1.DeviceService"


def watched(deployment: Deployment, use: Callable[[Listening], Awaitable[T]]) -> T:
    """Return what ``use`` makes of a server whose health is looked at all the time."""
    operations = OperationsConfig(metrics_port=0, health_every_s=0.02)

    async def run() -> T:
        server = DeliveryServer(
            deployment.config(operations=operations),
            clock=deployment.clock,
            database=deployment.database,
        )
        listening = await server.start()
        try:
            return await asyncio.wait_for(use(listening), TIMEOUT_S)
        finally:
            await server.stop()

    return asyncio.run(run())


def page(listening: Listening, path: str) -> tuple[int, str]:
    """Return status and text of a page."""
    try:
        with urlopen(f"http://{listening.metrics_address}{path}", timeout=TIMEOUT_S) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def ready_after(listening: Listening, status: int) -> int:
    """Return what the page for load balancers says once gRPC health has a status."""
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    async with grpc.aio.insecure_channel(listening.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        async for response in stub.Watch(request):
            if response.status == status:
                break
    return (await asyncio.to_thread(page, listening, "/readyz"))[0]


class TestHealth:
    def test_lost_files(self, deployment: Deployment) -> None:
        """While published files cannot be read, the server reports not serving; then it serves."""
        targets = deployment.store / "targets"

        async def use(listening: Listening) -> list[int]:
            seen = [await ready_after(listening, health_pb2.HealthCheckResponse.SERVING)]
            targets.rename(deployment.store / "away")
            seen.append(await ready_after(listening, health_pb2.HealthCheckResponse.NOT_SERVING))
            (deployment.store / "away").rename(targets)
            seen.append(await ready_after(listening, health_pb2.HealthCheckResponse.SERVING))
            return seen

        assert watched(deployment, use) == [200, 503, 200]

    def test_expired_timestamp(self, deployment: Deployment) -> None:
        """Past the timestamp's expiry devices would refuse all that is served."""

        async def use(listening: Listening) -> int:
            deployment.clock.now_s += 2 * 24 * 3600
            return await ready_after(listening, health_pb2.HealthCheckResponse.NOT_SERVING)

        assert watched(deployment, use) == 503


class TestMetrics:
    def test_plans_and_storage_are_counted(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """A plan that is asked for twice is signed once, and its storage is timed."""

        def ask(listening: Listening) -> str:
            with grpc.insecure_channel(listening.address) as channel:
                device = register_device(channel)
                request = pb.GetPlanRequest(model_digest=bundle.model_digest, subject="alice")
                for _ in range(2):
                    DeviceServiceStub(channel).GetPlan(request, metadata=device.metadata)
            return page(listening, "/metrics")[1]

        async def use(listening: Listening) -> str:
            return await asyncio.to_thread(ask, listening)

        lines = watched(deployment, use).splitlines()

        assert "pocketrec_plans_signed_total 1.0" in lines
        assert 'pocketrec_plans_total{outcome="sent"} 2.0' in lines
        assert 'pocketrec_calls_total{method="GetPlan",status="OK"} 2.0' in lines
        assert 'pocketrec_store_seconds_count{operation="find_plans"} 2.0' in lines
        assert not [line for line in lines if "alice" in line]

    def test_reported_latencies_are_counted_for_what_is_published(
        self, deployment: Deployment
    ) -> None:
        """A device says how long calls took; a model line that it makes up is no label."""

        def report(listening: Listening) -> str:
            latency = pb.LatencyHistogram(bounds_us=[50, 1000], counts=[3, 2, 1])
            with grpc.insecure_channel(listening.address) as channel:
                device = register_device(channel)
                for model_name in ("demo", "made-up"):
                    request = pb.ReportStatusRequest(
                        model_name=model_name,
                        outcome=pb.UPDATE_OUTCOME_RUNNING,
                        rerank_latency=latency,
                    )
                    DeviceServiceStub(channel).ReportStatus(request, metadata=device.metadata)
            return page(listening, "/metrics")[1]

        async def use(listening: Listening) -> str:
            return await asyncio.to_thread(report, listening)

        lines = watched(deployment, use).splitlines()

        name = "pocketrec_reported_rerank_seconds"
        assert f'{name}_bucket{{le="5e-05",model="demo"}} 3.0' in lines
        assert f'{name}_bucket{{le="0.0005",model="demo"}} 3.0' in lines
        assert f'{name}_bucket{{le="0.001",model="demo"}} 5.0' in lines
        assert f'{name}_count{{model="demo"}} 6.0' in lines
        assert not [line for line in lines if "made-up" in line]


class TestChaos:
    def test_stays_on_this_machine(self, deployment: Deployment) -> None:
        """Even with a certificate, nobody serves chaos to other machines by mistake."""
        operations = OperationsConfig(chaos=ChaosSettings(drop=0.5))

        with pytest.raises(ConfigError, match="--chaos is not for"):
            deployment.config(
                operations=operations, host="0.0.0.0", tls=deployment, is_plaintext_allowed=False
            )

        deployment.config(operations=operations, host="0.0.0.0", is_plaintext_allowed=True)
