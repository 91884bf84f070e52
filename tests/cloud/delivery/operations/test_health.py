# SPDX-License-Identifier: Apache-2.0
"""Health follows what the server depends on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from grpc_health.v1 import health, health_pb2
from prometheus_client.parser import text_string_to_metric_families

from pocketrec.errors import ConfigError, StoreError
from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.endpoint import OperationsEndpoint
from pocketrec_cloud.delivery.operations.health import HealthMonitor, HealthReport
from pocketrec_cloud.delivery.operations.metrics import Metrics
from pocketrec_cloud.delivery.operations.operations import Operations

TIMEOUT_S = 20.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "pocketrec.v1.DeviceService"


@dataclass
class Dependency:
    """Fails when told to."""

    error: Exception | None = None

    def __call__(self) -> None:
        """Answer, or fail."""
        if self.error is not None:
            raise self.error


@dataclass
class Announced:
    """What a monitor announced."""

    reports: list[HealthReport] = field(default_factory=list)

    async def __call__(self, report: HealthReport) -> None:
        """Take note."""
        self.reports.append(report)


class TestHealthMonitor:
    def test_failure_and_recovery(self) -> None:
        """A dependency that fails is named; once it answers, all is well."""
        store, announced = Dependency(), Announced()

        async def run() -> None:
            monitor = HealthMonitor({"store": store, "files": Dependency()}, announced)
            await monitor.look()
            store.error = StoreError("no connection")
            await monitor.look()
            store.error = None
            await monitor.look()
            await monitor.stop()

        asyncio.run(run())

        assert [report.is_healthy for report in announced.reports] == [True, False, True]
        assert announced.reports[1].problems == {"store": "StoreError: no connection", "files": ""}

    def test_dependency_that_hangs(self) -> None:
        """No answer in time is a failure, and the check is not started a second time."""
        n_calls, release = 0, threading.Event()

        def hang() -> None:
            nonlocal n_calls
            n_calls += 1
            release.wait(TIMEOUT_S)

        async def run() -> HealthReport:
            monitor = HealthMonitor({"store": hang}, Announced(), timeout_s=0.01)
            await monitor.look()
            await monitor.look()
            report = monitor.report
            release.set()
            await monitor.stop()
            return report

        report = asyncio.run(run())

        assert report.problems == {"store": "no answer within 0.01 s"}
        assert n_calls == 1

    def test_nobody_is_well_before_a_look(self) -> None:
        """Until the first look there is nothing to report."""
        assert not HealthReport().is_healthy

    def test_nothing_to_check_is_refused(self) -> None:
        """A monitor of nothing would always be well."""
        with pytest.raises(ConfigError, match="got 0 checks"):
            HealthMonitor({}, Announced())


@pytest.fixture
def report() -> dict[str, str]:
    """Problems by dependency, for the endpoint to show."""
    return {"store": ""}


@pytest.fixture
def address(report: dict[str, str]) -> Iterator[str]:
    """An endpoint that shows it."""
    endpoint = OperationsEndpoint(
        "127.0.0.1",
        0,
        registry=Metrics().registry,
        report=lambda: HealthReport(problems=report),
    )
    yield endpoint.address
    endpoint.close()


def get(address: str, path: str) -> tuple[int, str]:
    """Return the status and body of a page."""
    try:
        with urlopen(f"http://{address}{path}", timeout=TIMEOUT_S) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


class TestOperationsEndpoint:
    def test_metrics_are_prometheus_text(self, address: str) -> None:
        """What Prometheus reads has our numbers and those of the process."""
        status, body = get(address, "/metrics")

        names = {family.name for family in text_string_to_metric_families(body)}
        assert status == 200
        assert {"pocketrec_build_info", "process_resident_memory_bytes"} <= names

    def test_ready_only_while_all_is_well(self, address: str, report: dict[str, str]) -> None:
        """A failed dependency makes 503, named without its message; the process still lives."""
        ready = get(address, "/readyz")
        report["store"] = "StoreError: cannot reach db.internal"
        unready = get(address, "/readyz")

        assert ready == (200, '{"is_ready": true, "dependencies": {"store": true}}\n')
        assert unready[0] == 503
        assert json.loads(unready[1]) == {"is_ready": False, "dependencies": {"store": False}}
        assert get(address, "/healthz")[0] == 200

    def test_nothing_else_is_there(self, address: str) -> None:
        """Any other path is not found."""
        assert get(address, "/")[0] == 404

    def test_taken_port(self, address: str) -> None:
        """A port in use is named."""
        with pytest.raises(ConfigError, match=address):
            OperationsEndpoint(
                "127.0.0.1",
                int(address.rpartition(":")[2]),
                registry=Metrics().registry,
                report=HealthReport,
            )


class TestOperations:
    def test_grpc_health_and_metrics_follow(self) -> None:
        """The gRPC health service, the gauge and the HTTP page tell the same."""
        store = Dependency(StoreError("gone"))

        async def run() -> list[tuple[int, float | None, int]]:
            operations = Operations(OperationsConfig(metrics_port=0, health_every_s=0.01))
            service = Health()
            await operations.start({"store": store}, service, [SERVICE])
            seen = []
            for error, wanted in ((store.error, NOT_SERVING), (None, SERVING)):
                store.error = error
                await service.reports(wanted)
                code = await asyncio.to_thread(page, operations.metrics_address)
                seen.append((await status(service), up(operations.metrics), code))
            await operations.stop()
            return seen

        seen = asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))

        assert seen == [(NOT_SERVING, 0, 503), (SERVING, 1, 200)]

    def test_ports_of_workers(self) -> None:
        """Each process has the next port; without metrics none has any."""
        assert OperationsConfig(metrics_port=9464).metrics_port_of(3) == 9467
        assert OperationsConfig(metrics_port=0).metrics_port_of(3) == 0
        assert OperationsConfig().metrics_port_of(3) is None
        with pytest.raises(ConfigError, match="65536"):
            OperationsConfig(metrics_port=65535).metrics_port_of(1)


class Health(health.aio.HealthServicer):
    """A health service that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Condition()

    async def set(self, service: str, status: Any) -> None:
        """See the base class."""
        await super().set(service, status)
        async with self._changed:
            self._changed.notify_all()

    async def reports(self, wanted: int) -> None:
        """Return once the server as a whole has a status."""
        async with self._changed:
            while await status(self) != wanted:
                await self._changed.wait()


async def status(service: health.aio.HealthServicer) -> int:
    """Return what the gRPC health service says of our service."""
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    return int((await service.Check(request, None)).status)


def up(metrics: Metrics) -> float | None:
    """Return what the gauge of the store says."""
    return metrics.registry.get_sample_value("pocketrec_dependency_up", {"dependency": "store"})


def page(address: str) -> int:
    """Return the status of the page for load balancers."""
    return get(address, "/readyz")[0]
