# SPDX-License-Identifier: Apache-2.0
"""The commands ``rollout start|pause|resume|abort|status|list``."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import click
import grpc
from rich.live import Live

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.admin.options import server_options
from pocketrec_cloud.delivery.rollouts.tables import (
    FINAL,
    draw_rollouts,
    rollout_record,
    rollout_view,
)
from pocketrec_proto.v1 import admin_service_pb2 as pb

__all__ = [
    "rollout_abort",
    "rollout_list",
    "rollout_pause",
    "rollout_resume",
    "rollout_start",
    "rollout_status",
]

_share = click.FloatRange(0, 1, min_open=True)


@click.command()
@click.argument("model")
@click.option("--bundle", metavar="HEX", help="Digest of a published candidate.")
@click.option("--planner", default="", help="Roll out plans by this planner instead of a bundle.")
@click.option("--average-bits", type=float, default=0.0, help="... or of so many bits per weight.")
@click.option(
    "--usual-plans", is_flag=True, help="... or as usual again, after a rollout of others."
)
@click.option("--cohort", default="", help="Rule on device facts; default: every device.")
@click.option(
    "--stages",
    default="1,10,50,100",
    show_default=True,
    metavar="P,P,…",
    help="Rising percentages of the cohort; the last one is 100.",
)
@click.option(
    "--success",
    type=_share,
    default=0.95,
    show_default=True,
    help="Share of a stage's reports from which on the next one begins.",
)
@click.option(
    "--failure",
    type=_share,
    default=0.05,
    show_default=True,
    help="Share of a stage's reports from which on the rollout stops.",
)
@click.option(
    "--min-reports",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Reports of a stage before either counts.",
)
@click.option(
    "--min-stage-s",
    type=click.IntRange(0),
    default=3600,
    show_default=True,
    help="Seconds that a stage lasts at least.",
)
@click.option(
    "--request-id", default="", help="The same one again starts nothing anew; default: a new one."
)
@server_options
@json_option
def rollout_start(
    *,
    server: AdminEndpoint,
    model: str,
    bundle: str | None,
    planner: str,
    average_bits: float,
    usual_plans: bool,
    cohort: str,
    stages: str,
    success: float,
    failure: float,
    min_reports: int,
    min_stage_s: int,
    request_id: str,
    json_path: str | None,
) -> None:
    """Give a bundle, or plan settings, to a growing share of the devices of MODEL.

    It goes on, or stops and takes itself back, by what devices report.
    """
    request = pb.StartRolloutRequest(
        model_name=model,
        cohort=cohort,
        stages_percent=_percentages(stages),
        success_threshold=success,
        error_threshold=failure,
        min_reports=min_reports,
        min_stage_s=min_stage_s,
        request_id=request_id or uuid.uuid4().hex,
    )
    plans = pb.PlanSettings(planner=planner, average_bits=average_bits)
    _choose_what(request, bundle, plans if planner or average_bits or usual_plans else None)
    with AdminClient(server) as client:
        _show(client.call(client.stub.StartRollout, request), json_path)


@click.command()
@click.argument("rollout_id")
@click.option("--reason", default="", help="For the audit log.")
@server_options
@json_option
def rollout_pause(
    *, server: AdminEndpoint, rollout_id: str, reason: str, json_path: str | None
) -> None:
    """Let a rollout neither go on nor stop; who has it keeps it."""
    with AdminClient(server) as client:
        _change(client, client.stub.PauseRollout, (rollout_id, reason), json_path)


@click.command()
@click.argument("rollout_id")
@click.option("--reason", default="", help="For the audit log.")
@server_options
@json_option
def rollout_resume(
    *, server: AdminEndpoint, rollout_id: str, reason: str, json_path: str | None
) -> None:
    """Let a paused rollout go on."""
    with AdminClient(server) as client:
        _change(client, client.stub.ResumeRollout, (rollout_id, reason), json_path)


@click.command()
@click.argument("rollout_id")
@click.option("--reason", default="", help="For the audit log, and for who looks at it.")
@server_options
@json_option
def rollout_abort(
    *, server: AdminEndpoint, rollout_id: str, reason: str, json_path: str | None
) -> None:
    """Take a rollout back from every device; there is no way back from this."""
    with AdminClient(server) as client:
        _change(client, client.stub.AbortRollout, (rollout_id, reason), json_path)


@click.command()
@click.argument("rollout_id")
@click.option("--watch", is_flag=True, help="Draw it again and again until it has ended.")
@click.option(
    "--every-s",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="How often to look with --watch.",
)
@server_options
@json_option
def rollout_status(
    *,
    server: AdminEndpoint,
    rollout_id: str,
    watch: bool,
    every_s: float,
    json_path: str | None,
) -> None:
    """Show a rollout's stages, and what devices say of it."""
    with AdminClient(server) as client:

        def look() -> dict[str, Any]:
            request = pb.GetRolloutRequest(rollout_id=rollout_id)
            return rollout_record(client.call(client.stub.GetRollout, request))

        record = _watched(look, every_s) if watch else look()
    _emit(record, json_path)


@click.command()
@click.option("--model", default="", help="Model line; default: all.")
@server_options
@json_option
def rollout_list(*, server: AdminEndpoint, model: str, json_path: str | None) -> None:
    """List rollouts, the oldest first."""
    with AdminClient(server) as client:
        request = pb.ListRolloutsRequest(model_name=model)
        answer = client.call(client.stub.ListRollouts, request)
    records = [rollout_record(rollout) for rollout in answer.rollouts]
    emit(
        {"rollouts": records},
        render=lambda console: draw_rollouts(console, records),
        json_path=json_path,
    )


def _choose_what(
    request: pb.StartRolloutRequest, bundle: str | None, plans: pb.PlanSettings | None
) -> None:
    if (bundle is None) == (plans is None):
        raise ConfigError("expected --bundle, or --planner, --average-bits or --usual-plans")
    if bundle is not None:
        request.bundle_digest = _digest(bundle)
    if plans is not None:
        request.plans.CopyFrom(plans)


def _watched(look: Callable[[], dict[str, Any]], every_s: float) -> dict[str, Any]:
    """Draw what a look returns until it has ended, on stderr: the result goes to stdout."""
    record = look()
    with Live(rollout_view(record), console=stderr_console(), transient=True) as live:
        while record["state"] not in FINAL:
            time.sleep(every_s)
            record = look()
            live.update(rollout_view(record))
    return record


def _change(
    client: AdminClient,
    method: grpc.UnaryUnaryMultiCallable[pb.ChangeRolloutRequest, pb.Rollout],
    what: tuple[str, str],
    json_path: str | None,
) -> None:
    request = pb.ChangeRolloutRequest(rollout_id=what[0], reason=what[1])
    _show(client.call(method, request), json_path)


def _show(rollout: pb.Rollout, json_path: str | None) -> None:
    _emit(rollout_record(rollout), json_path)


def _emit(record: dict[str, Any], json_path: str | None) -> None:
    emit(
        record,
        render=lambda console: console.print(rollout_view(record)),
        json_path=json_path,
    )


def _percentages(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise ConfigError(
            f"--stages: expected percentages such as 1,10,50,100, got {text!r}"
        ) from exc


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigError(f"--bundle: expected the digest of a bundle in hex, got {text!r}")
    return digest
