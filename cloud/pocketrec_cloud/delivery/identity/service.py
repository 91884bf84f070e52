# SPDX-License-Identifier: Apache-2.0
"""What registration and sessions work on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias

from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.identity.challenges import Challenger
from pocketrec_cloud.delivery.records import DeviceSession
from pocketrec_cloud.delivery.store_protocols import DeviceStore

__all__ = ["IdentityService", "RecallSession"]

RecallSession: TypeAlias = Callable[[bytes], DeviceSession | None]
"""Returns whom a token's SHA-256 stands for, if no storage has to be asked; None otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityService:
    """Every part may be shared between threads.

    Args:
        store: Devices and their tokens.
        recall_session: Remembers sessions.
        challenger: Makes what devices sign.
        limits: What devices may send.
        challenges: How often an address may ask for a challenge.
        registrations: How often an address may register.
        calls: How often a device may call.
        clock: Unix seconds.
    """

    store: DeviceStore
    recall_session: RecallSession
    challenger: Challenger
    limits: Limits
    challenges: RateLimiter
    registrations: RateLimiter
    calls: RateLimiter
    clock: Callable[[], float]

    @classmethod
    def of(
        cls,
        store: DeviceStore,
        key: SigningKey,
        *,
        recall_session: RecallSession,
        limits: Limits,
        clock: Callable[[], float],
    ) -> Self:
        """Return a service whose rates are counted from now on.

        Args:
            store: Devices and their tokens.
            key: The director key, whose secret challenges are made with.
            recall_session: Remembers sessions.
            limits: What devices may send.
            clock: Unix seconds.
        """
        n_challenges = max(limits.challenges_per_minute, 2 * limits.registrations_per_minute)
        return cls(
            store=store,
            recall_session=recall_session,
            challenger=Challenger(key),
            limits=limits,
            challenges=RateLimiter(n_challenges, time.monotonic),
            registrations=RateLimiter(limits.registrations_per_minute, time.monotonic),
            calls=RateLimiter(limits.calls_per_minute, time.monotonic),
            clock=clock,
        )
