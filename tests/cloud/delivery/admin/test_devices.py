# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.admin import devices
from pocketrec_cloud.delivery.admin.devices import list_devices, revoke_device
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService
from pocketrec_cloud.delivery.records import DeviceRecord, DeviceStatusRecord, Outcome
from pocketrec_proto.v1 import admin_service_pb2 as pb

AddDevice = Callable[..., DeviceRecord]


def pages(service: AdminService, admin: AdminIdentity, **request: object) -> list[list[int]]:
    """Return the numbers of all devices that are listed, page by page."""
    numbers, token = [], ""
    while True:
        page = list_devices(service, pb.ListDevicesRequest(page_token=token, **request), admin)
        numbers.append([int(device.device_id, 16) for device in page.devices])
        token = page.next_page_token
        if not token:
            return numbers


class TestListDevices:
    def test_shows_facts_and_the_last_report(
        self, service: AdminService, admin: AdminIdentity, add_device: AddDevice
    ) -> None:
        """An entry joins what a device said of itself with what it said last of any model."""
        device = add_device(7, locale="de-AT", tags=("beta",), ram_bytes=2**30)
        for model_name, at_s in (("demo", 20), ("other", 10)):
            service.store.put_status(
                DeviceStatusRecord(
                    device_id=device.device_id,
                    model_name=model_name,
                    bundle_digest=model_name.encode().ljust(32),
                    attempted_bundle_digest=b"",
                    plan_version=at_s,
                    outcome=Outcome.RUNNING,
                    error="",
                    reported_at_s=at_s,
                )
            )
        service.store.revoke_device(device.device_id, 5)

        (entry,) = list_devices(service, pb.ListDevicesRequest(), admin).devices

        assert entry == pb.DeviceEntry(
            device_id=device.device_id,
            backend="onnxruntime 1.31.1",
            app_version="2.0",
            os="Android",
            ram_bytes=2**30,
            locale="de-AT",
            tags=["beta"],
            created_at_s=7,
            seen_at_s=7,
            is_revoked=True,
            bundle_digest=b"demo".ljust(32),
            plan_version=20,
        )

    @pytest.mark.parametrize("n_devices", [0, 1, 2, 3, 4, 5])
    def test_pages_cover_everything_once(
        self, service: AdminService, admin: AdminIdentity, add_device: AddDevice, n_devices: int
    ) -> None:
        """Page after page, each device comes once, and the last page says that it is."""
        for number in range(n_devices):
            add_device(number)

        found = pages(service, admin, page_size=2)

        assert [number for page in found for number in page] == list(range(n_devices))
        assert all(len(page) == 2 for page in found[:-1])

    @pytest.mark.parametrize(("page_size", "max_scanned"), [(2, 100), (50, 100), (2, 3), (50, 3)])
    def test_a_cohort_filters(
        self,
        service: AdminService,
        admin: AdminIdentity,
        add_device: AddDevice,
        monkeypatch: pytest.MonkeyPatch,
        page_size: int,
        max_scanned: int,
    ) -> None:
        """A page goes on where the scan before it ended, whatever bounds that scan."""
        monkeypatch.setattr(devices, "MAX_SCANNED", max_scanned)
        monkeypatch.setattr(devices, "_BATCH", 3)
        for number in range(20):
            add_device(number, os="iOS" if number % 5 == 0 else "Android")

        found = pages(service, admin, cohort="os = iOS", page_size=page_size)

        assert [number for page in found for number in page] == [0, 5, 10, 15]

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (pb.ListDevicesRequest(cohort="os ="), "cohort, at character 5: expected a value"),
            (pb.ListDevicesRequest(page_size=1001), "page_size: expected at most 1000, got 1001"),
            (pb.ListDevicesRequest(page_token="' OR 1"), "page_token: expected 32 lower-case hex"),
        ],
    )
    def test_what_cannot_be_listed_is_refused(
        self,
        service: AdminService,
        admin: AdminIdentity,
        request_: pb.ListDevicesRequest,
        message: str,
    ) -> None:
        """The caller learns which field is wrong."""
        with pytest.raises(RejectedError, match=message) as refusal:
            list_devices(service, request_, admin)

        assert refusal.value.code == "INVALID_ARGUMENT"


class TestRevokeDevice:
    def test_ends_its_session_and_is_written_down(
        self, service: AdminService, admin: AdminIdentity, add_device: AddDevice
    ) -> None:
        """Its token is worth nothing from now on, and the log says who did it and why."""
        device = add_device(7)
        request = pb.RevokeDeviceRequest(device_id=device.device_id, reason="stolen")

        revoke_device(service, request, admin)

        assert service.store.find_session(device.token_sha256) is None
        (entry,) = service.store.list_audit(after=0, limit=9)
        assert (entry.admin, entry.action, entry.subject) == (
            "olga",
            "RevokeDevice",
            device.device_id,
        )
        assert json.loads(entry.details) == {"reason": "stolen"}
        assert entry.at_s == int(service.clock())

    @pytest.mark.parametrize(
        ("device_id", "reason", "code"),
        [
            ("0" * 32, "", "NOT_FOUND"),
            ("x", "", "INVALID_ARGUMENT"),
            ("0" * 32, "x" * 257, "INVALID_ARGUMENT"),
        ],
    )
    def test_nothing_else_is_revoked(
        self, service: AdminService, admin: AdminIdentity, device_id: str, reason: str, code: str
    ) -> None:
        """A device that is not there is named, and the log stays empty."""
        request = pb.RevokeDeviceRequest(device_id=device_id, reason=reason)

        with pytest.raises(RejectedError) as refusal:
            revoke_device(service, request, admin)

        assert refusal.value.code == code
        assert service.store.list_audit(after=0, limit=9) == []
