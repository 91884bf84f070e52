# SPDX-License-Identifier: Apache-2.0
"""The commands ``push``, ``push list`` and ``push cancel``."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pocketrec.console import emit, json_option
from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.admin.options import optional_server_options, server_options
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.bitpack import pack_codes
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.plan import DIGEST_BYTES, Plan, decode_plan
from pocketrec_quantization.plan_json import plan_from_json

__all__ = ["push"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(invoke_without_command=True)
@click.option("--user", metavar="S", help="Push to one user, by pseudonym.")
@click.option("--cohort", metavar="RULE", help="Push to devices, e.g. 'os = Android'.")
@click.option("--all", "everybody", is_flag=True, help="Push to every device.")
@click.option("--planner", default="", help="Plans by this planner.")
@click.option("--average-bits", type=float, default=0.0, help="Bits per coded weight.")
@click.option(
    "--plan",
    "plan_file",
    type=_FILE,
    help="Plans with exactly the codes of this plan: a container, or the JSON of `plan show`.",
)
@click.option("--model", metavar="HEX", default="", help="Digest of the frozen part; default: all.")
@click.option(
    "--lifetime",
    type=click.FloatRange(0, min_open=True),
    metavar="HOURS",
    help="Default: for ever.",
)
@click.option("--request-id", help="The same one again changes nothing; default: a new one.")
@json_option
@optional_server_options
@click.pass_context
def push(
    context: click.Context,
    *,
    user: str | None,
    cohort: str | None,
    everybody: bool,
    planner: str,
    average_bits: float,
    plan_file: Path | None,
    model: str,
    lifetime: float | None,
    request_id: str | None,
    server: AdminEndpoint | None,
    json_path: str | None,
) -> None:
    """Let plans of some or all users be like this from now on.

    Who watches gets the new plan now, everybody else with the next sync. The newest push counts,
    one for a user before one for a cohort, and that before one for all.
    """
    if context.invoked_subcommand is not None:
        return
    settings = pb.PlanSettings(planner=planner, average_bits=average_bits)
    if plan_file is not None:
        settings = _settings_of(_read_plan(plan_file), planner, average_bits)
    request = pb.PushPlanRequest(
        audience=_audience(user, cohort, everybody=everybody),
        settings=settings,
        model_digest=_digest(model),
        lifetime_s=0 if lifetime is None else max(1, round(lifetime * 3600)),
        request_id=request_id or uuid.uuid4().hex,
    )
    with AdminClient(_required(server)) as client:
        response = client.call(client.stub.PushPlan, request)
    result = {"sequence": response.sequence, "n_watching": response.n_watching}
    emit(
        result,
        render=lambda console: console.print(
            f"push {response.sequence}: {response.n_watching} devices were watching the process "
            "that answered"
        ),
        json_path=json_path,
    )


@push.command("list")
@server_options
@json_option
def push_list(*, server: AdminEndpoint, json_path: str | None) -> None:
    """List the pushes that hold, the oldest first."""
    with AdminClient(server) as client:
        response = client.call(client.stub.ListPushes, pb.ListPushesRequest())
    rows = [_row(each) for each in response.pushes]
    emit({"pushes": rows}, render=lambda console: _draw(console, rows), json_path=json_path)


@push.command("cancel")
@click.argument("sequence", type=click.IntRange(1))
@server_options
@json_option
def push_cancel(*, sequence: int, server: AdminEndpoint, json_path: str | None) -> None:
    """Take the push number SEQUENCE back: plans are as before."""
    with AdminClient(server) as client:
        client.call(client.stub.CancelPush, pb.CancelPushRequest(sequence=sequence))
    emit(
        {"cancelled": sequence},
        render=lambda console: console.print(f"push {sequence} is taken back"),
        json_path=json_path,
    )


def _required(server: AdminEndpoint | None) -> AdminEndpoint:
    if server is None:
        raise ConfigError("expected --server HOST:PORT")
    return server


def _audience(user: str | None, cohort: str | None, *, everybody: bool) -> pb.Audience:
    if [user is not None, cohort is not None, everybody].count(True) != 1:
        raise ConfigError("expected one of --user, --cohort and --all")
    if user is not None:
        return pb.Audience(subject=user)
    if cohort is not None:
        return pb.Audience(cohort=cohort)
    return pb.Audience(everybody=pb.Everybody())


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b"?"
    if len(digest) not in {0, DIGEST_BYTES}:
        raise ConfigError(f"--model: expected {2 * DIGEST_BYTES} hex characters, got {text!r}")
    return digest


def _read_plan(path: Path) -> Plan:
    data = path.read_bytes()
    if not data.lstrip().startswith(b"{"):
        return decode_plan(data)
    try:
        document = json.loads(data)
        return plan_from_json(document.get("plan", document))  # with what plan show adds, or bare
    except ValueError as exc:
        raise MalformedArtifactError(f"{str(path)!r} is no plan as JSON", field="plan") from exc


def _settings_of(plan: Plan, planner: str, average_bits: float) -> pb.PlanSettings:
    if planner or average_bits:
        raise ConfigError("--plan says it all; drop --planner and --average-bits")
    if plan.levels != DEFAULT_LEVELS:
        raise ConfigError(f"--plan: expected the levels {DEFAULT_LEVELS.bits} of a server's plans")
    return pb.PlanSettings(planner=plan.planner, codes=pack_codes(plan.codes))


def _row(entry: pb.Push) -> dict[str, Any]:
    kind = entry.audience.WhichOneof("who") or ""
    value = "" if kind == "everybody" else getattr(entry.audience, kind)
    return {
        "sequence": entry.sequence,
        "audience": kind,
        "audience_value": value,
        "planner": entry.settings.planner,
        "average_bits": entry.settings.average_bits,
        "has_codes": bool(entry.settings.codes),
        "model_digest": entry.model_digest,
        "created_at_s": entry.created_at_s,
        "expires_at_s": entry.expires_at_s,
        "admin": entry.admin,
    }


def _moment(unix_s: int) -> str:
    if not unix_s:
        return "never"
    return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="seconds")


def _draw(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table("push", "for", "plans", "model", "ends", "by")
    for row in rows:
        bits = f"{row['average_bits']:g} bits" if row["average_bits"] else ""
        codes = "fixed codes" if row["has_codes"] else ""
        table.add_row(
            str(row["sequence"]),
            row["audience_value"] or row["audience"],
            ", ".join(filter(None, (row["planner"], bits, codes))),
            row["model_digest"].hex()[:12] or "all",
            _moment(row["expires_at_s"]),
            row["admin"],
        )
    console.print(table)
