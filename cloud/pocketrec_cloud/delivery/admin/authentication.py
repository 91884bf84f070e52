# SPDX-License-Identifier: Apache-2.0
"""Says who calls the admin service: by a token, or by a client certificate."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.admin.certificates import AdminCertificates
from pocketrec_cloud.delivery.admin.service import AdminIdentity
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter, peer_key
from pocketrec_cloud.delivery.boundary.translation import Context
from pocketrec_cloud.delivery.identity.sessions import bearer_sha256
from pocketrec_cloud.delivery.store_protocols import AdminStore

__all__ = ["FAILURES_PER_MINUTE", "AdminAuthenticator"]

FAILURES_PER_MINUTE = 10
"""Of one address; further attempts are refused unseen."""

_LOG = logging.getLogger(__name__)
_CERTIFICATE = "x509_pem_cert"


class AdminAuthenticator:
    """An ``Authenticator``; a token that is sent counts alone, whatever the certificate.

    Args:
        store: Admins, by the digest of their token.
        certificates: Who is an admin by certificate.
        executor: Waits for the store.
        clock: Unix seconds.
        failures: How often an address may fail.
    """

    def __init__(
        self,
        store: AdminStore,
        *,
        certificates: AdminCertificates,
        executor: Executor,
        clock: Callable[[], float],
        failures: RateLimiter | None = None,
    ) -> None:
        self._store = store
        self._certificates = certificates
        self._executor = executor
        self._clock = clock
        self._failures = failures or RateLimiter(FAILURES_PER_MINUTE, time.monotonic)

    async def __call__(self, context: Context) -> AdminIdentity:
        """Return who makes a call.

        Raises:
            RejectedError: Nobody is known to, or this address has failed too often.
            StoreError: The database fails.
        """
        caller = peer_key(context.peer())
        if self._failures.is_exhausted(caller):
            raise RejectedError(
                "too many failed attempts from this address; try again in a minute",
                code="RESOURCE_EXHAUSTED",
            )
        metadata = dict(context.invocation_metadata() or ())
        authorization = str(metadata.get("authorization", ""))
        if authorization:
            loop = asyncio.get_running_loop()
            admin, problem = await loop.run_in_executor(self._executor, self._find, authorization)
        else:
            admin, problem = self._read_certificate(context)
        if admin is None:
            self._failures.allow(caller)
            _LOG.warning("an admin call from %s was refused: %s", caller, problem)
            raise RejectedError(
                "expected the metadata 'authorization: Bearer <admin token>' with a token that "
                "is good, or the client certificate of an admin",
                code="UNAUTHENTICATED",
            )
        return admin

    def _find(self, authorization: str) -> tuple[AdminIdentity | None, str]:
        """Return whom a token stands for, or what is wrong with it."""
        token_sha256 = bearer_sha256(authorization)
        if token_sha256 is None:
            return None, "no bearer token"
        admin = self._store.find_admin(token_sha256)
        if admin is None or not hmac.compare_digest(admin.token_sha256, token_sha256):
            return None, "unknown token"
        if admin.expires_at_s and admin.expires_at_s <= self._clock():
            return None, f"the token of {admin.name!r} has expired"
        return AdminIdentity(name=admin.name, role=admin.role), ""

    def _read_certificate(self, context: Context) -> tuple[AdminIdentity | None, str]:
        """Return whom the connection's certificate stands for, or what is wrong with it."""
        shown = next(iter(context.auth_context().get(_CERTIFICATE, ())), None)
        if shown is None:
            return None, "neither a token nor a certificate"
        admin = self._certificates.find(shown)
        return admin, "" if admin else "the certificate is no admin's"
