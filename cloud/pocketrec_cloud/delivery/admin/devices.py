# SPDX-License-Identifier: Apache-2.0
"""Answers ``ListDevices`` and ``RevokeDevice``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pocketrec.errors import RejectedError
from pocketrec.registration import DEVICE_ID_CHARS
from pocketrec_cloud.delivery.admin.paging import page_size_of
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService, write_audit
from pocketrec_cloud.delivery.boundary.refusals import blaming_the_caller
from pocketrec_cloud.delivery.cohorts import Cohort
from pocketrec_cloud.delivery.records import DeviceRecord, DeviceStatusRecord
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.checks import check_text

__all__ = ["MAX_SCANNED", "list_devices", "revoke_device"]

MAX_SCANNED = 20_000
"""Devices that one call looks at; a page of a small cohort may be short, and not the last."""

_BATCH = 1000
_MAX_REASON_CHARS = 256
_DEVICE_ID = re.compile(f"[0-9a-f]{{{DEVICE_ID_CHARS}}}")


def list_devices(
    service: AdminService, request: pb.ListDevicesRequest, admin: AdminIdentity
) -> pb.ListDevicesResponse:
    """Return a page of the devices of a cohort, in the order of their ids.

    Raises:
        RejectedError: The cohort, the page's size or its token is none.
        StoreError: The database fails.
    """
    del admin  # whoever may look sees every device
    with blaming_the_caller():
        cohort = Cohort.parse(request.cohort)
    size, after = page_size_of(request.page_size), request.page_token
    if after:
        _check_device_id(after, field="page_token")
    found: list[DeviceRecord] = []
    n_scanned, is_last = 0, False
    while len(found) < size and n_scanned < MAX_SCANNED and not is_last:
        batch = service.store.list_devices(after=after, limit=_BATCH)
        is_last = len(batch) < _BATCH
        for device in batch:
            n_scanned, after = n_scanned + 1, device.device_id
            found += [device] if cohort.matches(device) else []
            if len(found) == size:
                is_last = is_last and device is batch[-1]
                break
    statuses = _last_statuses(service, [device.device_id for device in found])
    return pb.ListDevicesResponse(
        devices=[_entry(device, statuses.get(device.device_id)) for device in found],
        next_page_token="" if is_last else after,
    )


def revoke_device(
    service: AdminService, request: pb.RevokeDeviceRequest, admin: AdminIdentity
) -> pb.RevokeDeviceResponse:
    """End a device's token, and let it register no more.

    Raises:
        RejectedError: There is no such device, or the reason is too long.
        StoreError: The database fails.
    """
    _check_device_id(request.device_id, field="device_id")
    with blaming_the_caller():
        check_text(request.reason, field="reason", maximum=_MAX_REASON_CHARS)
    if not service.store.revoke_device(request.device_id, int(service.clock())):
        raise RejectedError(f"there is no device {request.device_id!r}", code="NOT_FOUND")
    details = {"reason": request.reason}
    write_audit(service, admin.name, "RevokeDevice", request.device_id, details)
    return pb.RevokeDeviceResponse()


def _last_statuses(
    service: AdminService, device_ids: Sequence[str]
) -> dict[str, DeviceStatusRecord]:
    """Return what each device reported last, about whichever model line."""
    last: dict[str, DeviceStatusRecord] = {}
    for model_name in service.model_lines():
        for device_id, status in service.store.find_statuses(device_ids, model_name).items():
            if device_id not in last or last[device_id].reported_at_s < status.reported_at_s:
                last[device_id] = status
    return last


def _entry(device: DeviceRecord, status: DeviceStatusRecord | None) -> pb.DeviceEntry:
    return pb.DeviceEntry(
        device_id=device.device_id,
        backend=device.backend,
        app_version=device.app_version,
        os=device.os,
        ram_bytes=device.ram_bytes,
        locale=device.locale,
        tags=device.tags,
        created_at_s=device.created_at_s,
        seen_at_s=device.seen_at_s,
        is_revoked=device.revoked_at_s > 0,
        bundle_digest=b"" if status is None else status.bundle_digest,
        plan_version=0 if status is None else status.plan_version,
    )


def _check_device_id(value: str, *, field: str) -> None:
    if not _DEVICE_ID.fullmatch(value):
        raise RejectedError(
            f"{field}: expected {DEVICE_ID_CHARS} lower-case hex characters, got {value[:64]!r}",
            code="INVALID_ARGUMENT",
        )
