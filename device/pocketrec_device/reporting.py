# SPDX-License-Identifier: Apache-2.0
"""What a device tells its server of how an update went, if the app has opted in.

A report has digests and versions, the name of an error, and counts of how long calls took: no item,
no pseudonym, no message. It is sent after a sync, or a plan that was pushed, through the same
connection, and never makes either fail.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pocketrec.errors import (
    DeadlineError,
    HealthCheckError,
    PocketRecError,
    ServiceUnavailableError,
    StoreLockedError,
)
from pocketrec_device.latency_counter import LatencyCounter
from pocketrec_quantization.plan import decode_plan

if TYPE_CHECKING:
    from pocketrec_device.state import DeviceState
    from pocketrec_device.store import Store
    from pocketrec_device.transport import ServiceClient

__all__ = ["StatusReport", "UpdateAttempt", "UpdateOutcome", "following", "outcome_of"]

_LOG = logging.getLogger(__name__)
_TEMPORARY = (ServiceUnavailableError, DeadlineError, StoreLockedError)
"""What says nothing about the update: it is tried again."""


class UpdateOutcome(StrEnum):
    """How an update went; field by field as ``UpdateOutcome`` of the protocol."""

    RUNNING = "RUNNING"
    INSTALLED = "INSTALLED"
    UNHEALTHY = "UNHEALTHY"
    FAILED = "FAILED"
    REVERTED = "REVERTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What ``report_status`` tells; field by field as ``ReportStatusRequest``.

    Args:
        model_name: Model line.
        bundle: Digest in hex of the bundle that runs; empty = none.
        attempted: Digest in hex of the bundle that the update was about; empty with RUNNING.
        plan_version: Of the plan that runs; 0 = the bundle's default plan, or none.
        outcome: How the update went.
        error: Name of the error's class; empty = none.
        latency_counts: One per bound of ``LATENCY_BOUNDS_US`` and one above; empty = no calls.
    """

    model_name: str
    bundle: str
    attempted: str
    plan_version: int
    outcome: UpdateOutcome
    error: str = ""
    latency_counts: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class UpdateAttempt:
    """Filled in by a sync as it goes.

    Args:
        bundle: Digest in hex of the bundle that it is about; empty = it did not come so far.
        is_held_back: Whether the app went back from that bundle, so that it was left alone.
    """

    bundle: str = ""
    is_held_back: bool = False


def outcome_of(
    before: DeviceState, after: DeviceState, attempt: UpdateAttempt
) -> tuple[UpdateOutcome, str]:
    """Return how an update went that did not fail, and the bundle that it was about.

    Args:
        before: The state before the sync.
        after: The state after it.
        attempt: What it was about.
    """
    was = before.current
    if attempt.is_held_back:
        return UpdateOutcome.REVERTED, attempt.bundle
    if was is not None and was.bundle in after.withdrawn and after.current != was:
        return UpdateOutcome.REVERTED, was.bundle
    if after.current != was:
        return UpdateOutcome.INSTALLED, attempt.bundle
    return UpdateOutcome.RUNNING, ""


@contextmanager
def following(
    store: Store, client: ServiceClient, attempt: UpdateAttempt, latencies: LatencyCounter | None
) -> Iterator[None]:
    """Report how the update inside the ``with`` block went, once it is over.

    Args:
        store: Says what runs.
        client: A connection; authenticated when the block is over.
        attempt: What the update is about; it may be filled in meanwhile.
        latencies: How long calls took since the last report; None = the app has not opted in,
            and nothing is reported.

    Raises:
        PocketRecError: The update failed with it.
        OSError: Likewise.
    """
    if latencies is None:
        yield
        return
    before, reporter = store.load(), _Reporter(store, client, latencies)
    try:
        yield
    except (PocketRecError, OSError) as exc:
        if attempt.bundle and not isinstance(exc, _TEMPORARY):
            is_unhealthy = isinstance(exc, HealthCheckError)
            outcome = UpdateOutcome.UNHEALTHY if is_unhealthy else UpdateOutcome.FAILED
            reporter.send(outcome, attempt.bundle, type(exc).__name__)
        raise
    outcome, attempted = outcome_of(before, store.load(), attempt)
    reporter.send(outcome, attempted)


class _Reporter:
    """Sends reports, and never fails."""

    def __init__(self, store: Store, client: ServiceClient, latencies: LatencyCounter) -> None:
        self._store = store
        self._client = client
        self._latencies = latencies

    def send(self, outcome: UpdateOutcome, attempted: str, error: str = "") -> None:
        """Tell the server; a report that is lost is logged, and its counts are kept."""
        counts = self._latencies.take()
        try:
            state = self._store.load()
            self._client.report_status(
                StatusReport(
                    model_name=state.model,
                    bundle="" if state.current is None else state.current.bundle,
                    attempted=attempted,
                    plan_version=self._plan_version(state),
                    outcome=outcome,
                    error=error,
                    latency_counts=counts if any(counts) else (),
                )
            )
        except (PocketRecError, OSError) as exc:
            self._latencies.put_back(counts)
            _LOG.info("the report was not delivered: %s", exc)

    def _plan_version(self, state: DeviceState) -> int:
        if state.current is not None:
            with suppress(PocketRecError, OSError):
                return decode_plan(self._store.read_plan(state.current.plan)).version
        return 0
