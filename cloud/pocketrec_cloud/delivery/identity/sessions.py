# SPDX-License-Identifier: Apache-2.0
"""Whom a token stands for, and whether that device may call now."""

from __future__ import annotations

import hashlib

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.records import DeviceSession

__all__ = ["admit", "bearer_sha256", "find_session", "recall_session"]

_BEARER = "Bearer "


def bearer_sha256(authorization: str) -> bytes | None:
    """Return the digest of the token in a metadata entry "authorization", if there is one."""
    token = authorization.removeprefix(_BEARER)
    if token == authorization or not token:
        return None
    return hashlib.sha256(token.encode(errors="replace")).digest()


def recall_session(service: IdentityService, authorization: str) -> DeviceSession | None:
    """Return what :func:`find_session` would, if that takes no storage; None otherwise."""
    token_sha256 = bearer_sha256(authorization)
    return None if token_sha256 is None else service.recall_session(token_sha256)


def find_session(service: IdentityService, authorization: str) -> DeviceSession:
    """Return whom a metadata entry "authorization" stands for; the token may have ended.

    Raises:
        RejectedError: There is no token, nobody has it, or its device was revoked.
        StoreError: The database fails.
    """
    token_sha256 = bearer_sha256(authorization)
    session = None if token_sha256 is None else service.store.find_session(token_sha256)
    if session is None:
        refusal = _unauthenticated()
        raise refusal
    return session


def admit(service: IdentityService, session: DeviceSession) -> DeviceSession:
    """Return a session that may make one call now.

    Raises:
        RejectedError: Its token has ended, or this device calls too often.
    """
    if session.expires_at_s <= service.clock():
        refusal = _unauthenticated()
        raise refusal
    if not service.calls.allow(session.device_id):
        raise RejectedError("too many calls; try again in a minute", code="RESOURCE_EXHAUSTED")
    return session


def _unauthenticated() -> RejectedError:
    return RejectedError(
        "expected the metadata 'authorization: Bearer <token>' with a token that has not ended; "
        "register",
        code="UNAUTHENTICATED",
    )
