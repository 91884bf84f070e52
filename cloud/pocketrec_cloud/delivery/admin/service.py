# SPDX-License-Identifier: Apache-2.0
"""What the admin handlers work on, and the log of what they did."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pocketrec_cloud.delivery.publishing.acceptance import PublishingDesk
from pocketrec_cloud.delivery.push.desk import PushDesk
from pocketrec_cloud.delivery.records import AdminRole, AuditRecord
from pocketrec_cloud.delivery.rollouts.desk import RolloutDesk
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["AdminIdentity", "AdminService", "write_audit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminIdentity:
    """Who calls, after authentication."""

    name: str
    role: AdminRole


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminService:
    """What the handlers work on; every part may be shared between threads.

    Args:
        store: What the server remembers.
        clock: Unix seconds.
        publishing: What the calls about publications work on.
        pushes: What the calls about pushes work on.
        model_lines: Returns the names of the model lines that are published.
        rollouts: What the calls about rollouts work on.
    """

    store: DeliveryStore
    clock: Callable[[], float]
    publishing: PublishingDesk
    pushes: PushDesk
    model_lines: Callable[[], Collection[str]] = tuple
    rollouts: RolloutDesk


def write_audit(
    service: AdminService, admin: str, action: str, subject: str, details: Mapping[str, object]
) -> None:
    """Write down that something was done; ``details`` are values that JSON knows, no secrets.

    Raises:
        StoreError: The database fails.
    """
    service.store.add_audit(
        AuditRecord(
            number=0,
            at_s=int(service.clock()),
            admin=admin,
            action=action,
            subject=subject,
            details=json.dumps(details, sort_keys=True),
        )
    )
