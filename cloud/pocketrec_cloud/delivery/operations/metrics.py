# SPDX-License-Identifier: Apache-2.0
"""The server's numbers for Prometheus; no label has a value that a caller could make up.

Each server process has a registry of its own, served on a port of its own: what Prometheus
adds up over processes stays right when one of them is restarted.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from pocketrec import __version__
from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.operations.observing import Call, Ending
from pocketrec_cloud.delivery.operations.reported_latency import ReportedLatency
from pocketrec_proto.v1.device_service_pb2 import WatchPlansResponse

__all__ = ["Metrics"]

# Seconds: a plan takes a millisecond or two, a database commit about ten.
_CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts what one server process does; safe to share between threads.

    As an observer of calls it counts them; the other methods are for the parts that know.

    Attributes:
        registry: All of it, for an HTTP endpoint.
        reported_latency: What devices say of their own speed; told of published model lines only.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._build_info()
        self._calls()
        self._plans()
        self._dependencies()
        self.reported_latency = ReportedLatency()
        self.registry.register(self.reported_latency)

    def begin(self, call: Call) -> Callable[[Ending], None]:
        """Count a call in, and out again at its end."""
        current = self._streams_open if call.is_stream else self._in_flight
        gauge = current.labels(call.method)
        gauge.inc()

        def end(ending: Ending) -> None:
            gauge.dec()
            self._n_calls.labels(call.method, ending.status.name).inc()
            if not call.is_stream:
                self._seconds.labels(call.method).observe(ending.duration_s)

        return end

    def sent(self, call: Call, message: object) -> None:
        """Count one message of a stream."""
        self._n_messages.labels(call.method).inc()
        if isinstance(message, WatchPlansResponse):
            self._n_pushed.labels(message.WhichOneof("event") or "none").inc()

    def plans_issued(self, outcomes: Sequence[object], n_signed: int) -> None:
        """Count a batch of requests for plans that were worked on together.

        Args:
            outcomes: What became of each: bytes, none when the installed plan is current, or
                an error.
            n_signed: How many plans were signed for it; the others were at hand.
        """
        self._batch_size.observe(len(outcomes))
        self._n_signed.inc(n_signed)
        for outcome in outcomes:
            kind = "failed"
            if isinstance(outcome, bytes):
                kind = "sent" if outcome else "current"
            self._n_plans.labels(kind).inc()

    @contextmanager
    def storing(self, operation: str) -> Iterator[None]:
        """Time what a block asks of the store, and count it if it fails."""
        try:
            with self._store_seconds.labels(operation).time():
                yield
        except StoreError:
            self._n_store_errors.labels(operation).inc()
            raise

    def dependencies_checked(self, are_up: Mapping[str, bool]) -> None:
        """Note which dependencies answered."""
        for name, is_up in are_up.items():
            self._is_up.labels(name).set(is_up)

    def timestamp_read(self, *, issued_at_s: float, expires_at_s: float) -> None:
        """Note the life of the TUF timestamp, Unix seconds."""
        self._timestamp_issued.set(issued_at_s)
        self._timestamp_expires.set(expires_at_s)

    def rollouts_counted(self, n_by_state: Mapping[str, int]) -> None:
        """Note how many rollouts there are in each state."""
        for state, n_rollouts in n_by_state.items():
            self._n_rollouts.labels(state).set(n_rollouts)

    def fault_made(self, fault: str) -> None:
        """Count a fault made on purpose."""
        self._n_faults.labels(fault).inc()

    def _build_info(self) -> None:
        info = Gauge(
            "pocketrec_build_info",
            "1, with the versions of what runs.",
            ("version", "python"),
            registry=self.registry,
        )
        info.labels(__version__, platform.python_version()).set(1)

    def _calls(self) -> None:
        self._n_calls = self._counter("calls", "Calls that ended.", "method", "status")
        self._seconds = Histogram(
            "pocketrec_call_seconds",
            "How long calls with one answer took.",
            ("method",),
            buckets=_CALL_BUCKETS_S,
            registry=self.registry,
        )
        self._in_flight = self._gauge(
            "calls_in_flight", "Calls with one answer, under way.", "method"
        )
        self._streams_open = self._gauge(
            "streams_open", "Calls with a stream of answers, under way.", "method"
        )
        self._n_messages = self._counter("stream_messages", "Messages sent on streams.", "method")
        self._n_pushed = self._counter("watch_events", "What went to watching devices.", "event")
        self._n_faults = self._counter("chaos_faults", "Faults made by --chaos.", "fault")

    def _plans(self) -> None:
        self._n_plans = self._counter("plans", "Requests for plans.", "outcome")
        self._n_signed = Counter(
            "pocketrec_plans_signed_total", "Plans made and signed.", registry=self.registry
        )
        self._batch_size = Histogram(
            "pocketrec_plan_batch_size",
            "Requests for plans that were worked on together.",
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )

    def _dependencies(self) -> None:
        self._store_seconds = Histogram(
            "pocketrec_store_seconds",
            "How long the store took.",
            ("operation",),
            buckets=_CALL_BUCKETS_S,
            registry=self.registry,
        )
        self._n_store_errors = self._counter("store_errors", "Failures of it.", "operation")
        self._is_up = self._gauge("dependency_up", "1 if it answers.", "dependency")
        self._timestamp_issued = Gauge(
            "pocketrec_tuf_timestamp_issued_seconds",
            "When the TUF timestamp was signed, Unix time.",
            registry=self.registry,
        )
        self._timestamp_expires = Gauge(
            "pocketrec_tuf_timestamp_expires_seconds",
            "When devices begin to refuse it, Unix time.",
            registry=self.registry,
        )
        self._n_rollouts = self._gauge("rollouts", "Rollouts.", "state")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pocketrec_{name}_total", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"pocketrec_{name}", text, labels, registry=self.registry)
