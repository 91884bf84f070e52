# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.admin.audit import list_audit_log
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService, write_audit
from pocketrec_proto.v1 import admin_service_pb2 as pb


class TestListAuditLog:
    def test_goes_on_after_an_entry(self, service: AdminService, admin: AdminIdentity) -> None:
        """Entries come in order, each once, whatever the size of a page."""
        for number in range(5):
            write_audit(service, "olga", "Test", f"subject {number}", {"n": number})

        first = list_audit_log(service, pb.ListAuditLogRequest(page_size=2), admin).entries
        rest = list_audit_log(service, pb.ListAuditLogRequest(after=first[-1].number), admin)

        subjects = [entry.subject for entry in (*first, *rest.entries)]
        assert subjects == [f"subject {number}" for number in range(5)]
        assert first[1] == pb.AuditEntry(
            number=2,
            at_s=int(service.clock()),
            admin="olga",
            action="Test",
            subject="subject 1",
            details='{"n": 1}',
        )

    @pytest.mark.parametrize("request_", [{"page_size": 1001}, {"after": 2**64 - 1}])
    def test_numbers_have_bounds(
        self, service: AdminService, admin: AdminIdentity, request_: dict[str, int]
    ) -> None:
        """What no page could answer is refused."""
        with pytest.raises(RejectedError) as refusal:
            list_audit_log(service, pb.ListAuditLogRequest(**request_), admin)

        assert refusal.value.code == "INVALID_ARGUMENT"
