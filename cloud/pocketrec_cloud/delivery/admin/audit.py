# SPDX-License-Identifier: Apache-2.0
"""Answers ``ListAuditLog``."""

from __future__ import annotations

from pocketrec_cloud.delivery.admin.paging import page_size_of
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService
from pocketrec_cloud.delivery.boundary.refusals import blaming_the_caller
from pocketrec_cloud.delivery.records import AuditRecord
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.checks import check_integer

__all__ = ["list_audit_log"]


def list_audit_log(
    service: AdminService, request: pb.ListAuditLogRequest, admin: AdminIdentity
) -> pb.ListAuditLogResponse:
    """Return what was done after an entry, oldest first.

    Raises:
        RejectedError: The page's size or its start is none.
        StoreError: The database fails.
    """
    del admin  # whoever may look sees all of it
    with blaming_the_caller():
        check_integer(request.after, field="after")
    size = page_size_of(request.page_size)
    entries = service.store.list_audit(after=request.after, limit=size)
    return pb.ListAuditLogResponse(entries=[_entry(entry) for entry in entries])


def _entry(entry: AuditRecord) -> pb.AuditEntry:
    return pb.AuditEntry(
        number=entry.number,
        at_s=entry.at_s,
        admin=entry.admin,
        action=entry.action,
        subject=entry.subject,
        details=entry.details,
    )
