# SPDX-License-Identifier: Apache-2.0
"""Adds and removes those who may call the admin service with a token, on the store itself."""

from __future__ import annotations

import hashlib
import json
import secrets

from pocketrec.errors import ConfigError, StoreError
from pocketrec_cloud.delivery.records import AdminRecord, AdminRole, AuditRecord
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_quantization.checks import check_name

__all__ = ["COMMAND_LINE", "add_admin", "remove_admin"]

COMMAND_LINE = "command-line"
"""Who did what was done on the store itself, in the audit log."""

_RESERVED = (COMMAND_LINE, "rollout", "server")
_TOKEN_BYTES = 32


def add_admin(
    store: DeliveryStore, name: str, role: AdminRole, *, now_s: int, expires_at_s: int = 0
) -> str:
    """Make an admin known, and return the token, which is stored as a digest only.

    Args:
        store: Where admins are kept.
        name: New.
        role: What the admin may do.
        now_s: Unix seconds.
        expires_at_s: Unix seconds; 0 = never.

    Raises:
        ConfigError: The name is none, or is what the log calls the server itself.
        StoreError: There is an admin of this name, or the database fails.
    """
    check_name(name, field="name")
    if name in _RESERVED:
        raise ConfigError(f"name: expected another one than {', '.join(_RESERVED)}, got {name!r}")
    if any(admin.name == name for admin in store.list_admins()):
        raise StoreError(
            f"there is an admin {name!r} already; remove it first, which ends its token"
        )
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    admin = AdminRecord(
        name=name,
        role=role,
        token_sha256=hashlib.sha256(token.encode()).digest(),
        created_at_s=now_s,
        expires_at_s=expires_at_s,
    )
    store.put_admin(admin)
    _write_down(store, "admin added", name, {"role": role, "expires_at_s": expires_at_s}, now_s)
    return token


def remove_admin(store: DeliveryStore, name: str, *, now_s: int) -> None:
    """Forget an admin; the next call with the token fails.

    Args:
        store: Where admins are kept.
        name: Whom to forget.
        now_s: Unix seconds.

    Raises:
        ConfigError: There is no such admin.
        StoreError: The database fails.
    """
    if not store.remove_admin(name):
        known = ", ".join(admin.name for admin in store.list_admins()) or "none"
        raise ConfigError(f"expected an admin's name ({known}), got {name!r}")
    _write_down(store, "admin removed", name, {}, now_s)


def _write_down(
    store: DeliveryStore, action: str, subject: str, details: dict[str, object], now_s: int
) -> None:
    store.add_audit(
        AuditRecord(
            number=0,
            at_s=now_s,
            admin=COMMAND_LINE,
            action=action,
            subject=subject,
            details=json.dumps(details, sort_keys=True),
        )
    )
