# SPDX-License-Identifier: Apache-2.0
"""Spans of calls for OpenTelemetry, sent to a collector over OTLP; needs the extra ``tracing``.

A call that brings a W3C ``traceparent`` as metadata goes on in that trace. Spans name the
method and the status, never who called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from pocketrec import __version__
from pocketrec.errors import MissingExtraError
from pocketrec_cloud.delivery.operations.observing import Call, Ending
from pocketrec_cloud.delivery.operations.request_ids import current_request_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["CallSpans", "otlp_provider"]

_CALLERS_FAULT = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)


class CallSpans:
    """Makes a server span of every call.

    Args:
        provider: Where spans go; :meth:`close` ends it.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pocketrec", __version__)

    def begin(self, call: Call) -> Callable[[Ending], None]:
        """Begin a span, current for all that the call does."""
        from opentelemetry import context, trace
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {name: call.header(name) for name in ("traceparent", "tracestate")}
        span = self._tracer.start_span(
            f"{call.service}/{call.method}",
            context=TraceContextTextMapPropagator().extract(carrier, context.Context()),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": call.service,
                "rpc.method": call.method,
                "pocketrec.request_id": current_request_id(),
            },
        )
        # Never detached: the context ends with the task, and the task with the call.
        context.attach(trace.set_span_in_context(span))

        def end(ending: Ending) -> None:
            span.set_attribute("rpc.grpc.status_code", ending.status.value[0])
            if ending.status not in _CALLERS_FAULT:
                span.set_status(StatusCode.ERROR, ending.status.name)
            span.end()

        return end

    def sent(self, call: Call, message: object) -> None:
        """Nothing to note."""

    def close(self) -> None:
        """Send what waits, and end."""
        self._provider.shutdown()


def otlp_provider(endpoint: str) -> TracerProvider:
    """Return a provider that sends spans to a collector, in batches, from a thread of its own.

    Args:
        endpoint: Such as "http://127.0.0.1:4317"; https encrypts.

    Raises:
        MissingExtraError: The extra ``tracing`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"--otlp-endpoint needs the library {error.name!r}, which is not installed; "
            "run: pip install 'pocketrec[tracing]'"
        ) from error
    resource = Resource.create({"service.name": "pocketrec", "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
