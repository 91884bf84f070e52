# SPDX-License-Identifier: Apache-2.0
"""Everything that watches one server process, put together and taken down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import grpc
from grpc_health.v1 import health, health_pb2

from pocketrec_cloud.delivery.operations.chaos import ChaosInterceptor
from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.endpoint import OperationsEndpoint
from pocketrec_cloud.delivery.operations.health import HealthMonitor, HealthReport
from pocketrec_cloud.delivery.operations.logs import CallLog
from pocketrec_cloud.delivery.operations.metrics import Metrics
from pocketrec_cloud.delivery.operations.observing import CallObserver, ObservingInterceptor
from pocketrec_cloud.delivery.operations.request_ids import RequestIds
from pocketrec_cloud.delivery.operations.tracing import CallSpans, otlp_provider

__all__ = ["Operations"]

_ServingStatus = health_pb2.HealthCheckResponse


class Operations:
    """The watch over one server process, from before it listens until after it ended.

    Args:
        config: What is on.
        worker: Which server process this is, counted from 0.

    Raises:
        MissingExtraError: Spans are wanted, and the extra ``tracing`` is not installed.

    Attributes:
        metrics: For the parts that have something to count.
    """

    def __init__(self, config: OperationsConfig, *, worker: int = 0) -> None:
        self._config, self._worker = config, worker
        self.metrics = Metrics()
        self._spans = (
            CallSpans(otlp_provider(config.otlp_endpoint)) if config.otlp_endpoint else None
        )
        self._interceptors = self._make_interceptors()
        self._monitor: HealthMonitor | None = None
        self._endpoint: OperationsEndpoint | None = None

    @property
    def metrics_address(self) -> str:
        """Where metrics are served, such as "127.0.0.1:9464"; empty = nowhere."""
        return "" if self._endpoint is None else self._endpoint.address

    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """Return what stands around every call of every listener, the outermost first."""
        return list(self._interceptors)

    async def start(
        self,
        checks: Mapping[str, Callable[[], None]],
        health_service: health.aio.HealthServicer,
        services: Sequence[str],
    ) -> None:
        """Serve metrics, look at the dependencies, and say what was found from now on.

        Args:
            checks: Return quietly while a dependency is well, by its name.
            health_service: Says whether ``services`` and the server as a whole serve.
            services: Full names of services.

        Raises:
            ConfigError: The address for metrics cannot be listened on.
        """

        async def announce(report: HealthReport) -> None:
            self.metrics.dependencies_checked(
                {name: not problem for name, problem in report.problems.items()}
            )
            status = _ServingStatus.SERVING if report.is_healthy else _ServingStatus.NOT_SERVING
            for name in (*services, ""):
                await health_service.set(name, status)

        self._monitor = HealthMonitor(
            checks,
            announce,
            every_s=self._config.health_every_s,
            timeout_s=self._config.health_timeout_s,
        )
        port = self._config.metrics_port_of(self._worker)
        if port is not None:
            self._endpoint = OperationsEndpoint(
                self._config.metrics_host,
                port,
                registry=self.metrics.registry,
                report=self._report,
            )
        await self._monitor.start()

    async def drain(self) -> None:
        """Report not ready from now on; metrics are still served."""
        if self._monitor is not None:
            await self._monitor.stop()
            self._monitor = None

    async def stop(self) -> None:
        """End what was started, and send the spans that wait."""
        await self.drain()
        if self._endpoint is not None:
            self._endpoint.close()
        if self._spans is not None:
            self._spans.close()

    def _report(self) -> HealthReport:
        return HealthReport() if self._monitor is None else self._monitor.report

    def _make_interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        observers: list[CallObserver] = [RequestIds(), self.metrics]
        if self._spans is not None:
            observers.append(self._spans)
        if self._config.logs_calls:
            observers.append(CallLog())
        around: list[grpc.aio.ServerInterceptor] = [ObservingInterceptor(observers)]
        if self._config.chaos is not None:
            around.append(ChaosInterceptor(self._config.chaos, self.metrics.fault_made))
        return around
