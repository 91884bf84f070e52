# SPDX-License-Identifier: Apache-2.0
"""What ``GetTargets`` and ``ReportStatus`` answer: functions from a request to a response."""

from __future__ import annotations

import re
from itertools import pairwise

from pocketrec.errors import ConfigError, RejectedError
from pocketrec_cloud.delivery.boundary.refusals import blaming_the_caller
from pocketrec_cloud.delivery.records import (
    DeviceRecord,
    DeviceStatusRecord,
    Outcome,
    RolloutRecord,
)
from pocketrec_cloud.delivery.rollouts.desk import RolloutDesk
from pocketrec_cloud.delivery.rollouts.engine import is_active
from pocketrec_cloud.delivery.rollouts.judge import judge
from pocketrec_cloud.delivery.rollouts.line import begun_stage
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.checks import check_integer, check_name
from pocketrec_quantization.plan import DIGEST_BYTES

__all__ = ["MAX_LATENCY_BOUNDS", "get_targets", "report_status"]

MAX_LATENCY_BOUNDS = 32
"""Bounds of a histogram that a device may send."""

_ERROR = re.compile(r"(?:[A-Za-z][A-Za-z0-9_]{0,63})?")
_OUTCOMES = {
    pb.UPDATE_OUTCOME_RUNNING: Outcome.RUNNING,
    pb.UPDATE_OUTCOME_INSTALLED: Outcome.INSTALLED,
    pb.UPDATE_OUTCOME_UNHEALTHY: Outcome.UNHEALTHY,
    pb.UPDATE_OUTCOME_FAILED: Outcome.FAILED,
    pb.UPDATE_OUTCOME_REVERTED: Outcome.REVERTED,
}


def get_targets(
    desk: RolloutDesk, request: pb.GetTargetsRequest, device_id: str
) -> pb.GetTargetsResponse:
    """Return which published bundle a device should run; empty = the current one.

    Args:
        desk: What to work on.
        request: What the device asks.
        device_id: Who asks.

    Raises:
        RejectedError: A field is out of bounds, or this device asks too often.
        ArtifactError: The store's metadata is damaged.
        StoreError: The database fails, or the store has no repository.
        OSError: A file cannot be read.
    """
    if not desk.asked.allow(device_id):
        raise RejectedError("asked too often; try again in a minute", code="RESOURCE_EXHAUSTED")
    with blaming_the_caller():
        check_name(request.model_name, field="model_name")
        _check_digest(request.bundle_digest, field="bundle_digest")
    return pb.GetTargetsResponse(assignment=desk.assigner.assign(request.model_name, device_id))


def report_status(
    desk: RolloutDesk, request: pb.ReportStatusRequest, device_id: str
) -> pb.ReportStatusResponse:
    """Remember what a device says, and count it for the rollout that it is about.

    A failure is judged at once; everything else waits until rollouts are judged anyhow.

    Args:
        desk: What to work on.
        request: What the device says.
        device_id: Who says it.

    Raises:
        RejectedError: A field is out of bounds, or this device reports too often.
        PocketRecError, OSError: The database fails, or ``on_latency`` does.
    """
    if not desk.reported.allow(device_id):
        raise RejectedError("reported too often; try again in a minute", code="RESOURCE_EXHAUSTED")
    with blaming_the_caller():
        status = _read_status(request, device_id, int(desk.clock()))
    desk.store.put_status(status)
    if desk.on_latency is not None and request.rerank_latency.counts:
        desk.on_latency(status.model_name, request.rerank_latency)
    for rollout in desk.store.list_rollouts(status.model_name):
        if is_active(rollout) and _is_about(status, rollout):
            _count(desk, rollout, status)
    return pb.ReportStatusResponse()


def _count(desk: RolloutDesk, rollout: RolloutRecord, status: DeviceStatusRecord) -> None:
    """Count a report in the stage that the device belongs to; others tried it by themselves."""

    def device() -> DeviceRecord | None:
        return desk.store.find_device(status.device_id)

    stage = begun_stage(rollout, status.device_id, device)
    if stage is None:
        return
    desk.store.put_outcome(
        rollout.rollout_id, status.device_id, stage=stage, outcome=status.outcome
    )
    if status.outcome.is_failure:
        judge(desk.store, rollout, desk.clock)


def _is_about(status: DeviceStatusRecord, rollout: RolloutRecord) -> bool:
    """Whether a report says something about what a rollout brings.

    Plan settings come with any sync, so every report counts, as a success only from a device
    that runs a plan which was made for it.
    """
    if not rollout.bundle_digest:
        return status.outcome.is_failure or status.plan_version > 0
    if status.outcome is Outcome.RUNNING:
        return status.bundle_digest == rollout.bundle_digest
    return status.attempted_bundle_digest == rollout.bundle_digest


def _read_status(request: pb.ReportStatusRequest, device_id: str, now_s: int) -> DeviceStatusRecord:
    """Return what a device says; ``ConfigError`` when a field is out of bounds."""
    check_name(request.model_name, field="model_name")
    for field in ("bundle_digest", "attempted_bundle_digest"):
        _check_digest(getattr(request, field), field=field)
    check_integer(request.plan_version, field="plan_version")
    if request.outcome not in _OUTCOMES:
        raise ConfigError(f"outcome: expected one that is known, got {request.outcome}")
    if not _ERROR.fullmatch(request.error):
        raise ConfigError(f"error: expected the name of an error, got {request.error[:64]!r}")
    _check_latency(request.rerank_latency)
    outcome = _OUTCOMES[request.outcome]
    if (outcome is Outcome.RUNNING) == bool(request.attempted_bundle_digest):
        raise ConfigError("attempted_bundle_digest: expected with every outcome but RUNNING")
    return DeviceStatusRecord(
        device_id=device_id,
        model_name=request.model_name,
        bundle_digest=request.bundle_digest,
        attempted_bundle_digest=request.attempted_bundle_digest,
        plan_version=request.plan_version,
        outcome=outcome,
        error=request.error,
        reported_at_s=now_s,
    )


def _check_latency(latency: pb.LatencyHistogram) -> None:
    bounds, counts = list(latency.bounds_us), list(latency.counts)
    if not bounds and not counts:
        return
    if len(bounds) > MAX_LATENCY_BOUNDS or any(a >= b for a, b in pairwise(bounds)):
        raise ConfigError(f"bounds_us: expected at most {MAX_LATENCY_BOUNDS} that rise")
    if len(counts) != len(bounds) + 1:
        raise ConfigError(f"counts: expected {len(bounds) + 1}, got {len(counts)}")
    for count in counts:
        check_integer(count, field="counts", maximum=2**40)


def _check_digest(digest: bytes, *, field: str) -> None:
    if len(digest) not in {0, DIGEST_BYTES}:
        raise ConfigError(f"{field}: expected {DIGEST_BYTES} bytes or none, got {len(digest)}")
