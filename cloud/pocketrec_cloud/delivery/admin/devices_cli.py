# SPDX-License-Identifier: Apache-2.0
"""The commands ``devices list``, ``devices revoke`` and ``audit``, over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pocketrec.console import emit, json_option
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.admin.options import server_options
from pocketrec_proto.v1 import admin_service_pb2 as pb

__all__ = ["audit", "devices_list", "devices_revoke"]

_ID_CHARS = 32

_PAGE = 1000
_limit_option = click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="How many at most."
)


@click.command()
@click.option("--cohort", default="", help="Rule on device facts; default: every device.")
@_limit_option
@server_options
@json_option
def devices_list(*, server: AdminEndpoint, cohort: str, limit: int, json_path: str | None) -> None:
    """List devices, what they declare, and what they reported last."""
    with AdminClient(server) as client:
        devices, is_complete = _find_devices(client, cohort, limit)
    result = {"devices": [_device_record(device) for device in devices], "is_complete": is_complete}

    def render(console: Console) -> None:
        _draw_devices(console, devices)
        if not is_complete:
            console.print(f"there are more; --limit shows beyond {limit}")

    emit(result, render=render, json_path=json_path)


@click.command()
@click.argument("device_id")
@click.option("--reason", default="", help="For the audit log.")
@server_options
@json_option
def devices_revoke(
    *, server: AdminEndpoint, device_id: str, reason: str, json_path: str | None
) -> None:
    """End the token of DEVICE_ID, and let it register no more."""
    request = pb.RevokeDeviceRequest(device_id=device_id, reason=reason)
    with AdminClient(server) as client:
        client.call(client.stub.RevokeDevice, request)
    emit(
        {"revoked": device_id},
        render=lambda console: console.print(f"revoked {device_id}", markup=False),
        json_path=json_path,
    )


@click.command()
@click.option(
    "--after", type=click.IntRange(0), default=0, show_default=True, help="Number of an entry."
)
@_limit_option
@server_options
@json_option
def audit(*, server: AdminEndpoint, after: int, limit: int, json_path: str | None) -> None:
    """Show who did what, oldest first."""
    entries: list[pb.AuditEntry] = []
    with AdminClient(server) as client:
        while len(entries) < limit:
            page_size = min(_PAGE, limit - len(entries))
            request = pb.ListAuditLogRequest(after=after, page_size=page_size)
            page = client.call(client.stub.ListAuditLog, request).entries
            entries += page
            if len(page) < page_size:
                break
            after = page[-1].number
    emit(
        {"entries": [_record(entry) for entry in entries]},
        render=lambda console: _draw_entries(console, entries),
        json_path=json_path,
    )


def _find_devices(
    client: AdminClient, cohort: str, limit: int
) -> tuple[list[pb.DeviceEntry], bool]:
    """Return devices, and whether these are all."""
    devices: list[pb.DeviceEntry] = []
    token = ""
    while True:
        page_size = min(_PAGE, limit - len(devices))
        request = pb.ListDevicesRequest(cohort=cohort, page_size=page_size, page_token=token)
        page = client.call(client.stub.ListDevices, request)
        devices += page.devices
        token = page.next_page_token
        if not token or len(devices) >= limit:
            return devices, not token


def _record(message: pb.DeviceEntry | pb.AuditEntry) -> dict[str, Any]:
    """Return a message as the JSON of commands has it: numbers as such, all fields."""
    found = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    names = [field.name for field in message.DESCRIPTOR.fields]
    numbers = {name: value for name in names if isinstance(value := getattr(message, name), int)}
    return found | numbers


def _device_record(device: pb.DeviceEntry) -> dict[str, Any]:
    return _record(device) | {
        "bundle_digest": device.bundle_digest.hex(),
        "is_revoked": device.is_revoked,
    }


def _draw_devices(console: Console, devices: Sequence[pb.DeviceEntry]) -> None:
    table = Table(
        Column("device", overflow="fold", min_width=_ID_CHARS),  # to be copied
        "os",
        "app",
        "GiB",
        "locale",
        "tags",
        "backend",
        "bundle",
        "plan",
        "seen",
        box=None,
    )
    for device in devices:
        cells = (
            device.device_id + (" (revoked)" if device.is_revoked else ""),
            device.os,
            device.app_version,
            f"{device.ram_bytes / 2**30:.1f}" if device.ram_bytes else "",
            device.locale,
            ", ".join(device.tags),
            device.backend,
            device.bundle_digest.hex()[:12],
            str(device.plan_version or ""),
            _time(device.seen_at_s),
        )
        table.add_row(*map(Text, cells))  # what a device tells is never markup
    console.print(table)


def _draw_entries(console: Console, entries: Sequence[pb.AuditEntry]) -> None:
    table = Table("number", "time", "who", "did", "to", "details", box=None)
    for entry in entries:
        cells = (str(entry.number), _time(entry.at_s), entry.admin, entry.action, entry.subject)
        table.add_row(*map(Text, (*cells, entry.details)))
    console.print(table)


def _time(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")
