# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the names of calls come from the .proto
"""Spans of calls, as a collector receives them over OTLP."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.cloud.delivery.operations.scripted_service import ScriptedService, call

from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.observing import Call, Ending, ObservingInterceptor
from pocketrec_cloud.delivery.operations.operations import Operations
from pocketrec_cloud.delivery.operations.request_ids import HEADER
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="needs the extra 'tracing'")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(TraceServiceServicer):
    """Keeps the spans it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.target = ""

    def Export(self, request: ExportTraceServiceRequest, context: object) -> Any:
        """Take spans."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on the loopback."""
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.target = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None).wait()


class CallEnd:
    """Tells when all that was to be done about a call is done."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    def begin(self, call: Call) -> Callable[[Ending], None]:
        """Expect the end of a call."""
        return lambda _: self.reached.set()

    def sent(self, call: Call, message: object) -> None:
        """Expect more."""


def spans_of(collector: Collector, subject: str = "", **metadata: str) -> list[Span]:
    """Return the spans of one request for a plan."""

    async def use(channel: grpc.aio.Channel, service: ScriptedService) -> None:
        answer = DeviceServiceStub(channel).GetPlan(
            pb.GetPlanRequest(subject=subject), metadata=tuple(metadata.items())
        )
        await answer.code()

    async def traced(channel: grpc.aio.Channel, service: ScriptedService) -> None:
        await use(channel, service)
        await end.reached.wait()  # the answer is sent before the span ends
        await operations.stop()

    operations = Operations(OperationsConfig(otlp_endpoint=collector.target))
    end = CallEnd()
    call([ObservingInterceptor([end]), *operations.interceptors()], traced)
    return collector.spans


def attributes(span: Span) -> dict[str, object]:
    """Return a span's attributes."""
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


class TestCallSpans:
    def test_span_goes_on_in_the_callers_trace(self, collector: Collector) -> None:
        """The caller's traceparent is the parent; the request id is an attribute."""
        metadata = {"traceparent": f"00-{TRACE}-{PARENT}-01", HEADER: "request-1"}

        (span,) = spans_of(collector, **metadata)

        assert span.name == "pocketrec.v1.DeviceService/GetPlan"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert attributes(span)["pocketrec.request_id"] == "request-1"
        assert span.status.code == span.status.STATUS_CODE_UNSET

    def test_caller_without_a_trace(self, collector: Collector) -> None:
        """Each call begins a trace of its own."""
        (span,) = spans_of(collector)

        assert span.parent_span_id == b""

    @pytest.mark.parametrize(("subject", "is_error"), [("broken", True), ("refused", False)])
    def test_only_our_faults_are_errors(
        self, collector: Collector, subject: str, is_error: bool
    ) -> None:
        """A refusal is no error of the server; neither names the subject."""
        (span,) = spans_of(collector, subject=subject)

        assert (span.status.code == span.status.STATUS_CODE_ERROR) is is_error
        assert subject not in str(span)


class TestImports:
    def test_nothing_is_imported_unless_asked_for(self) -> None:
        """A server without an endpoint does not load OpenTelemetry."""
        code = (
            "import sys\n"
            "from pocketrec_cloud.delivery.operations.config import OperationsConfig\n"
            "from pocketrec_cloud.delivery.operations.operations import Operations\n"
            "Operations(OperationsConfig()).interceptors()\n"
            "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
        )

        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )

        assert done.returncode == 0
