# SPDX-License-Identifier: Apache-2.0
"""Rollouts as what commands print: JSON for programs, tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pocketrec_proto.v1 import admin_service_pb2 as pb

__all__ = ["FINAL", "draw_rollouts", "rollout_record", "rollout_view"]

_PREFIX = "ROLLOUT_STATE_"
FINAL = ("stopped", "aborted", "finished")
"""States that a rollout never leaves."""

_STYLES = {"running": "cyan", "paused": "yellow", "finished": "green"}
_BAR_CHARS = 10


def rollout_record(rollout: pb.Rollout) -> dict[str, Any]:
    """Return a rollout as JSON."""
    request = rollout.request
    plans = request.plans
    return {
        "rollout_id": rollout.rollout_id,
        "model_name": request.model_name,
        "state": pb.RolloutState.Name(rollout.state).removeprefix(_PREFIX).lower(),
        "bundle_digest": request.bundle_digest.hex(),
        "planner": plans.planner,
        "average_bits": plans.average_bits,
        "cohort": request.cohort,
        "success_threshold": request.success_threshold,
        "error_threshold": request.error_threshold,
        "min_reports": request.min_reports,
        "min_stage_s": request.min_stage_s,
        "stage": rollout.stage,
        "stages": [
            {
                "percent": stage.percent,
                "started_at_s": stage.started_at_s,
                "n_succeeded": stage.n_succeeded,
                "n_failed": stage.n_failed,
            }
            for stage in rollout.stages
        ],
        "created_at_s": rollout.created_at_s,
        "changed_at_s": rollout.changed_at_s,
        "reason": rollout.reason,
        "admin": rollout.admin,
    }


def rollout_view(record: Mapping[str, Any]) -> RenderableType:
    """Return how a person sees one rollout.

    Args:
        record: What ``rollout_record`` returned.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("stage", "percent", "begun", "reports", "good", "bad", ""):
        is_number = column in {"percent", "reports", "good", "bad"}
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    for number, stage in enumerate(record["stages"]):
        table.add_row(*_stage_row(number, stage, record))
    lines = [_headline(record), f"brings {_what(record)} to {record['cohort'] or 'every device'}"]
    lines.append(
        f"goes on at {_percent(record['success_threshold'])} success, stops at "
        f"{_percent(record['error_threshold'])} failure, after {record['min_reports']} reports "
        f"and {record['min_stage_s']} s of a stage"
    )
    if record["reason"]:
        lines.append(f"why: {record['reason']}")
    style = _STYLES.get(record["state"], "red")
    texts = [Text(lines[0], style=style), *(Text(line) for line in lines[1:])]
    return Group(*texts, table)


def draw_rollouts(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw several rollouts, the oldest first.

    Args:
        console: Where to.
        records: What ``rollout_record`` returned.
    """
    if not records:
        console.print("no rollouts")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("rollout", "model", "state", "brings", "stage", "success", "failure"):
        table.add_column(column, no_wrap=column not in {"model", "brings"}, overflow="fold")
    for record in records:
        stages = record["stages"]
        table.add_row(
            record["rollout_id"],
            record["model_name"],
            Text(record["state"], style=_STYLES.get(record["state"], "red")),
            Text(_what(record)),
            f"{record['stage'] + 1}/{len(stages)}",
            str(sum(stage["n_succeeded"] for stage in stages)),
            str(sum(stage["n_failed"] for stage in stages)),
        )
    console.print(table)


def _stage_row(number: int, stage: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str, ...]:
    n_reports = stage["n_succeeded"] + stage["n_failed"]
    is_now = number == record["stage"] and record["state"] not in FINAL
    return (
        f"{'▸' if is_now else ' '} {number + 1}",
        f"{stage['percent']:g} %",
        _time(stage["started_at_s"]) if stage["started_at_s"] else "–",
        str(n_reports),
        str(stage["n_succeeded"]),
        str(stage["n_failed"]),
        _bar(stage["n_succeeded"], n_reports),
    )


def _bar(n_succeeded: int, n_reports: int) -> str:
    if not n_reports:
        return ""
    n_full = n_succeeded * _BAR_CHARS // n_reports
    return "█" * n_full + "░" * (_BAR_CHARS - n_full)


def _headline(record: Mapping[str, Any]) -> str:
    return (
        f"{record['rollout_id']}  {record['model_name']}  {record['state']} in stage "
        f"{record['stage'] + 1} of {len(record['stages'])}, by {record['admin']}"
    )


def _what(record: Mapping[str, Any]) -> str:
    if record["bundle_digest"]:
        return f"bundle {record['bundle_digest'][:12]}"
    parts = [record["planner"] and f"planner {record['planner']}"]
    parts.append(record["average_bits"] and f"{record['average_bits']:g} bits")
    return f"plans ({', '.join(part for part in parts if part) or 'as usual'})"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _time(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%MZ")
