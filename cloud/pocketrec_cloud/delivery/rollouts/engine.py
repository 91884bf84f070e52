# SPDX-License-Identifier: Apache-2.0
"""When a rollout goes on, stops, pauses or ends: functions from a record to the next one.

The reports of a stage are those of the devices that belong to it (``buckets``), one per device,
each with what it said last. A rollout that is running

1. stops when a stage that has begun, the current one or one before it, has at least
   ``min_reports`` reports and at least the share ``error_threshold`` of them are failures;
2. otherwise passes its current stage when that one has at least ``min_reports`` reports, at
   least the share ``success_threshold`` of them are successes, and ``min_stage_s`` seconds have
   passed since it began. Then the next stage begins, or, after the last one, it is finished.

A failure in an earlier stage counts in that stage, so many good newcomers do not outvote the few
who had the bundle for longest.

Source: our choice; stages with thresholds are those of hawkBit's rollouts, and phases those of
Mender's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.records import Outcome, RolloutRecord, RolloutState

__all__ = [
    "FINAL_STATES",
    "Outcomes",
    "abort",
    "counts_of",
    "evaluate",
    "is_active",
    "pause",
    "resume",
]

FINAL_STATES = frozenset((RolloutState.STOPPED, RolloutState.ABORTED, RolloutState.FINISHED))
"""States that a rollout never leaves."""

Outcomes: TypeAlias = Mapping[int, Mapping[Outcome, int]]
"""By stage, how many devices said what last."""


def is_active(rollout: RolloutRecord) -> bool:
    """Whether a rollout is running or paused."""
    return rollout.state not in FINAL_STATES


def counts_of(outcomes: Outcomes, stage: int) -> tuple[int, int]:
    """Return how many devices of a stage succeeded, and how many failed."""
    counts = outcomes.get(stage, {})
    n_failed = sum(n for outcome, n in counts.items() if outcome.is_failure)
    return sum(counts.values()) - n_failed, n_failed


def evaluate(rollout: RolloutRecord, outcomes: Outcomes, now_s: int) -> RolloutRecord:
    """Return the rollout as it is after what devices said; itself if nothing follows from it.

    Args:
        rollout: As it is stored.
        outcomes: What devices said.
        now_s: Unix seconds.
    """
    if rollout.state is not RolloutState.RUNNING:
        return rollout
    for stage in range(rollout.stage + 1):
        reason = _reason_to_stop(rollout, outcomes, stage)
        if reason:
            return _changed(rollout, RolloutState.STOPPED, now_s, reason=reason)
    if not _is_passed(rollout, outcomes, now_s):
        return rollout
    if rollout.stage + 1 == len(rollout.stages_percent):
        return _changed(rollout, RolloutState.FINISHED, now_s)
    begun = (*rollout.stages_started_at_s, now_s)
    grown = replace(rollout, stage=rollout.stage + 1, stages_started_at_s=begun)
    return _changed(grown, RolloutState.RUNNING, now_s)


def pause(rollout: RolloutRecord, now_s: int) -> RolloutRecord:
    """Return a rollout that neither goes on nor stops; who has it keeps it.

    Raises:
        RejectedError: It is not running.
    """
    _require(rollout, RolloutState.RUNNING, verb="paused")
    return _changed(rollout, RolloutState.PAUSED, now_s)


def resume(rollout: RolloutRecord, now_s: int) -> RolloutRecord:
    """Return a paused rollout as one that is running.

    Raises:
        RejectedError: It is not paused.
    """
    _require(rollout, RolloutState.PAUSED, verb="resumed")
    return _changed(rollout, RolloutState.RUNNING, now_s)


def abort(rollout: RolloutRecord, now_s: int, *, reason: str) -> RolloutRecord:
    """Return a rollout that is taken back.

    Raises:
        RejectedError: It has ended.
    """
    _require(rollout, RolloutState.RUNNING, RolloutState.PAUSED, verb="aborted")
    return _changed(rollout, RolloutState.ABORTED, now_s, reason=reason)


def _reason_to_stop(rollout: RolloutRecord, outcomes: Outcomes, stage: int) -> str:
    n_succeeded, n_failed = counts_of(outcomes, stage)
    n_reports = n_succeeded + n_failed
    if n_reports < rollout.min_reports or n_failed / n_reports < rollout.error_threshold:
        return ""
    return (
        f"{n_failed} of {n_reports} reports of stage {stage + 1} say failure, and the rollout "
        f"stops at {100 * rollout.error_threshold:g} %"
    )


def _is_passed(rollout: RolloutRecord, outcomes: Outcomes, now_s: int) -> bool:
    n_succeeded, n_failed = counts_of(outcomes, rollout.stage)
    n_reports = n_succeeded + n_failed
    if n_reports < rollout.min_reports or n_succeeded / n_reports < rollout.success_threshold:
        return False
    return now_s - rollout.stages_started_at_s[rollout.stage] >= rollout.min_stage_s


def _changed(
    rollout: RolloutRecord, state: RolloutState, now_s: int, *, reason: str = ""
) -> RolloutRecord:
    """Return a rollout in a state; ``changed_at_s`` only goes up, as assignments are numbered."""
    return replace(
        rollout,
        state=state,
        reason=reason,
        changed_at_s=max(now_s, rollout.changed_at_s + 1),
        revision=rollout.revision + 1,
    )


def _require(rollout: RolloutRecord, *states: RolloutState, verb: str) -> None:
    if rollout.state not in states:
        expected = " or ".join(states)
        raise RejectedError(
            f"only a rollout that is {expected} can be {verb}; {rollout.rollout_id} is "
            f"{rollout.state}",
            code="FAILED_PRECONDITION",
        )
