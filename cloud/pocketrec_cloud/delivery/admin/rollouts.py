# SPDX-License-Identifier: Apache-2.0
"""The admin calls about rollouts: start, pause, resume, abort, look."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import replace

from pocketrec.errors import ConfigError, RejectedError, StoreError
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService, write_audit
from pocketrec_cloud.delivery.boundary.refusals import blaming_the_caller
from pocketrec_cloud.delivery.cohorts import Cohort
from pocketrec_cloud.delivery.records import RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts import engine
from pocketrec_cloud.delivery.rollouts.buckets import N_BUCKETS
from pocketrec_cloud.delivery.rollouts.line import ModelLine
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.checks import check_integer, check_name, check_text
from pocketrec_quantization.levels import WIDTHS
from pocketrec_quantization.plan import DIGEST_BYTES

__all__ = [
    "MAX_STAGES",
    "MAX_STAGE_S",
    "abort_rollout",
    "get_rollout",
    "list_rollouts",
    "pause_rollout",
    "resume_rollout",
    "start_rollout",
]

MAX_STAGES = 20
"""Stages of one rollout."""

MAX_STAGE_S = 30 * 24 * 3600
"""The longest that a stage can be made to last."""

_MAX_ID_CHARS = 128
_MAX_REASON_CHARS = 256
_MAX_REPORTS = 10**6
_MAX_ATTEMPTS = 8
_PRECONDITION = "FAILED_PRECONDITION"
_STATES = {
    RolloutState.RUNNING: pb.ROLLOUT_STATE_RUNNING,
    RolloutState.PAUSED: pb.ROLLOUT_STATE_PAUSED,
    RolloutState.STOPPED: pb.ROLLOUT_STATE_STOPPED,
    RolloutState.ABORTED: pb.ROLLOUT_STATE_ABORTED,
    RolloutState.FINISHED: pb.ROLLOUT_STATE_FINISHED,
}


def start_rollout(
    service: AdminService, request: pb.StartRolloutRequest, admin: AdminIdentity
) -> pb.Rollout:
    """Let the first stage begin; a ``request_id`` that is known returns what it started.

    Raises:
        RejectedError: A field is out of bounds, the bundle is no candidate or is not above what
            devices may have, or another rollout of the model line is running or paused.
        ArtifactError: The store's metadata is damaged.
        StoreError: The database fails.
        OSError: A file cannot be read.
    """
    with blaming_the_caller():
        rollout = _read(request, admin.name, int(service.clock()))
    line = service.rollouts.assigner.line(rollout.model_name)
    if line is None:
        raise RejectedError(
            f"nothing is published of the model line {rollout.model_name!r}", code="NOT_FOUND"
        )
    known = next((r for r in line.rollouts if r.request_id == rollout.request_id), None)
    if known is not None:
        return _message(service, known)
    if rollout.bundle_digest:
        _check_candidate(line, rollout.bundle_digest)
    # Assignments are numbered by these times, which therefore only go up within a line.
    changed_at_s = max((r.changed_at_s + 1 for r in line.rollouts), default=0)
    rollout = replace(rollout, changed_at_s=max(rollout.changed_at_s, changed_at_s))
    stored = service.store.add_rollout(rollout)
    if stored is None:
        taken = f" ({line.active.rollout_id})" if line.active else ""
        raise RejectedError(
            f"another rollout of {rollout.model_name!r} is running or paused{taken}; wait for its "
            "end, or abort it",
            code=_PRECONDITION,
        )
    if stored.rollout_id == rollout.rollout_id:
        details = {
            "model": stored.model_name,
            "bundle": stored.bundle_digest.hex(),
            "cohort": stored.cohort,
            "stages_percent": stored.stages_percent,
        }
        write_audit(service, admin.name, "StartRollout", stored.rollout_id, details)
    return _message(service, stored)


def pause_rollout(
    service: AdminService, request: pb.ChangeRolloutRequest, admin: AdminIdentity
) -> pb.Rollout:
    """Let a rollout neither go on nor stop; who has it keeps it.

    Raises:
        RejectedError: There is no such rollout, it is not running, or the reason is too long.
        StoreError: The database fails.
    """
    return _change(service, request, admin, "PauseRollout", engine.pause)


def resume_rollout(
    service: AdminService, request: pb.ChangeRolloutRequest, admin: AdminIdentity
) -> pb.Rollout:
    """Let a paused rollout go on.

    Raises:
        RejectedError: There is no such rollout, it is not paused, or the reason is too long.
        StoreError: The database fails.
    """
    return _change(service, request, admin, "ResumeRollout", engine.resume)


def abort_rollout(
    service: AdminService, request: pb.ChangeRolloutRequest, admin: AdminIdentity
) -> pb.Rollout:
    """Take a rollout back from every device.

    Raises:
        RejectedError: There is no such rollout, it has ended, or the reason is too long.
        StoreError: The database fails.
    """
    reason = request.reason or f"aborted by {admin.name}"

    def change(rollout: RolloutRecord, now_s: int) -> RolloutRecord:
        return engine.abort(rollout, now_s, reason=reason)

    return _change(service, request, admin, "AbortRollout", change)


def get_rollout(
    service: AdminService,
    request: pb.GetRolloutRequest,
    admin: AdminIdentity,  # noqa: ARG001  as every handler has it
) -> pb.Rollout:
    """Return one rollout, and what devices say of it.

    Raises:
        RejectedError: There is no such rollout.
        StoreError: The database fails.
    """
    return _message(service, _find(service, request.rollout_id))


def list_rollouts(
    service: AdminService,
    request: pb.ListRolloutsRequest,
    admin: AdminIdentity,  # noqa: ARG001  as every handler has it
) -> pb.ListRolloutsResponse:
    """Return the rollouts of a model line, or of all, the oldest first.

    Raises:
        RejectedError: The model line's name is none.
        StoreError: The database fails.
    """
    if request.model_name:
        with blaming_the_caller():
            check_name(request.model_name, field="model_name")
    rollouts = service.store.list_rollouts(request.model_name)
    return pb.ListRolloutsResponse(rollouts=[_message(service, rollout) for rollout in rollouts])


def _change(
    service: AdminService,
    request: pb.ChangeRolloutRequest,
    admin: AdminIdentity,
    action: str,
    change: Callable[[RolloutRecord, int], RolloutRecord],
) -> pb.Rollout:
    """Store what a change makes of a rollout, also when others change it at the same time."""
    with blaming_the_caller():
        check_text(request.reason, field="reason", maximum=_MAX_REASON_CHARS)
    for _ in range(_MAX_ATTEMPTS):
        rollout = _find(service, request.rollout_id)
        changed = change(rollout, int(service.clock()))
        if service.store.swap_rollout(changed, replaces=rollout.revision):
            write_audit(service, admin.name, action, rollout.rollout_id, {"reason": request.reason})
            return _message(service, changed)
    raise StoreError(f"{_MAX_ATTEMPTS} attempts met other writers; try again later")


def _find(service: AdminService, rollout_id: str) -> RolloutRecord:
    with blaming_the_caller():
        check_text(rollout_id, field="rollout_id", maximum=_MAX_ID_CHARS)
    rollout = service.store.find_rollout(rollout_id)
    if rollout is None:
        raise RejectedError(f"there is no rollout {rollout_id[:64]!r}", code="NOT_FOUND")
    return rollout


def _read(request: pb.StartRolloutRequest, admin: str, now_s: int) -> RolloutRecord:
    """Return the rollout that is asked for; ``ConfigError`` when a field is out of bounds."""
    check_name(request.model_name, field="model_name")
    check_text(request.request_id, field="request_id", maximum=_MAX_ID_CHARS)
    if not request.request_id:
        raise ConfigError("request_id: expected a text of your choice, another one each time")
    stages = tuple(request.stages_percent)
    _check_stages(stages)
    for name in ("success_threshold", "error_threshold"):
        if not 0 < getattr(request, name) <= 1:
            raise ConfigError(f"{name}: expected above 0 and at most 1")
    check_integer(request.min_reports, field="min_reports", minimum=1, maximum=_MAX_REPORTS)
    check_integer(request.min_stage_s, field="min_stage_s", maximum=MAX_STAGE_S)
    _check_what(request)
    return RolloutRecord(
        rollout_id=secrets.token_hex(8),
        request_id=request.request_id,
        model_name=request.model_name,
        bundle_digest=request.bundle_digest,
        planner=request.plans.planner,
        average_bits=request.plans.average_bits,
        codes=b"",
        cohort=str(Cohort.parse(request.cohort)),
        stages_percent=stages,
        success_threshold=request.success_threshold,
        error_threshold=request.error_threshold,
        min_reports=request.min_reports,
        min_stage_s=request.min_stage_s,
        state=RolloutState.RUNNING,
        stage=0,
        stages_started_at_s=(now_s,),
        created_at_s=now_s,
        changed_at_s=now_s,
        admin=admin,
    )


def _check_what(request: pb.StartRolloutRequest) -> None:
    what = request.WhichOneof("what")
    if what is None:
        raise ConfigError("what: expected a bundle_digest or plans")
    if what == "bundle_digest":
        if len(request.bundle_digest) != DIGEST_BYTES:
            raise ConfigError(f"bundle_digest: expected {DIGEST_BYTES} bytes")
        return
    plans = request.plans
    if plans.codes:
        raise ConfigError("plans.codes: expected none: they are for one model; push them instead")
    if plans.planner:
        check_name(plans.planner, field="plans.planner")
    if plans.average_bits and not 2 <= plans.average_bits <= max(WIDTHS):
        raise ConfigError(f"plans.average_bits: expected 0 or 2..8, got {plans.average_bits}")


def _check_stages(stages: tuple[float, ...]) -> None:
    """Refuse stages that do not rise to 100 in steps that a hash can tell apart."""
    step = 100 / N_BUCKETS
    is_fine = (
        1 <= len(stages) <= MAX_STAGES
        and all(math.isfinite(percent) and percent >= step for percent in stages)
        and list(stages) == sorted(set(stages))
        and stages[-1] == 100
    )
    if not is_fine:
        raise ConfigError(
            f"stages_percent: expected 1 to {MAX_STAGES} rising percentages from {step:g} on, "
            f"the last one 100, got {list(stages)[: MAX_STAGES + 1]}"
        )


def _check_candidate(line: ModelLine, bundle_digest: bytes) -> None:
    """Refuse a bundle that devices would not accept, or have already."""
    if bundle_digest == line.current:
        raise RejectedError("this bundle is the current one already", code=_PRECONDITION)
    if bundle_digest not in line.candidates:
        raise RejectedError(
            f"bundle {bundle_digest.hex()} is not published as a candidate; publish it first",
            code="NOT_FOUND",
        )
    finished = [r.bundle_digest for r in line.of_bundles if r.state is RolloutState.FINISHED]
    newest = max(line.version_of(digest) for digest in (line.current, *finished))
    if line.version_of(bundle_digest) <= newest:
        raise RejectedError(
            f"the bundle has version {line.version_of(bundle_digest)}, and devices have version "
            f"{newest}; publish it under a higher version",
            code=_PRECONDITION,
        )


def _message(service: AdminService, rollout: RolloutRecord) -> pb.Rollout:
    """Return a rollout as admins see it."""
    outcomes = service.store.count_outcomes(rollout.rollout_id)
    stages = []
    for number, percent in enumerate(rollout.stages_percent):
        n_succeeded, n_failed = engine.counts_of(outcomes, number)
        started = rollout.stages_started_at_s[number : number + 1]
        stages.append(
            pb.StageStatus(
                percent=percent,
                started_at_s=started[0] if started else 0,
                n_succeeded=n_succeeded,
                n_failed=n_failed,
            )
        )
    return pb.Rollout(
        rollout_id=rollout.rollout_id,
        request=_request_of(rollout),
        state=_STATES[rollout.state],
        stage=rollout.stage,
        stages=stages,
        created_at_s=rollout.created_at_s,
        changed_at_s=rollout.changed_at_s,
        reason=rollout.reason,
        admin=rollout.admin,
    )


def _request_of(rollout: RolloutRecord) -> pb.StartRolloutRequest:
    """Return what was asked for."""
    request = pb.StartRolloutRequest(
        model_name=rollout.model_name,
        cohort=rollout.cohort,
        stages_percent=rollout.stages_percent,
        success_threshold=rollout.success_threshold,
        error_threshold=rollout.error_threshold,
        min_reports=rollout.min_reports,
        min_stage_s=rollout.min_stage_s,
        request_id=rollout.request_id,
    )
    if rollout.bundle_digest:
        request.bundle_digest = rollout.bundle_digest
    else:
        request.plans.CopyFrom(
            pb.PlanSettings(planner=rollout.planner, average_bits=rollout.average_bits)
        )
    return request
