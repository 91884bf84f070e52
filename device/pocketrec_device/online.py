# SPDX-License-Identifier: Apache-2.0
"""One sync over one connection: opens it, holds the store's lock, and reports how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec_device.reporting import UpdateAttempt, following
from pocketrec_device.sync import Embed, PlanWish, synchronise
from pocketrec_device.transport import ServiceClient

if TYPE_CHECKING:
    from pocketrec_device.engine import Engine, EngineSettings
    from pocketrec_device.facts import DeviceFacts
    from pocketrec_device.install import Guard
    from pocketrec_device.latency_counter import LatencyCounter
    from pocketrec_device.status import SyncReport
    from pocketrec_device.store import Store
    from pocketrec_device.tls import Tls

__all__ = ["Link", "sync_over"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How to reach a server; see ``Runtime.sync``."""

    target: str
    tls: Tls | None
    deadline_s: float


def sync_over(
    link: Link,
    store: Store,
    wish: PlanWish,
    settings: EngineSettings,
    *,
    clock: Callable[[], float],
    guard: Guard,
    embed: Embed,
    facts: DeviceFacts | None,
    latencies: LatencyCounter | None,
) -> tuple[Engine, SyncReport]:
    """Bring a store up to date and return the engine of what is current now.

    Args:
        link: How to reach the server.
        store: Not locked yet.
        wish: What plan the app wants.
        settings: How to build the engine.
        clock: Unix seconds.
        guard: Asked before a pair that is not the current one goes live.
        embed: Gives the user embedding to send for a subject's plan.
        facts: What the app declares of this device; None = nothing.
        latencies: How long calls took since the last report; None = the app has not opted in,
            and nothing is reported.

    Raises:
        ArtifactError: Something that was offered cannot be accepted.
        ServiceError: The server could not be asked, or refused.
        StoreError: The store has no root of trust, is damaged, or is locked.
        BackendError: The backend cannot be made.
        ConfigError: The address or the deadline cannot be used.
        OSError: The store cannot be written.
    """
    attempt = UpdateAttempt()
    with (
        store.writing(),
        ServiceClient(link.target, tls=link.tls, deadline_s=link.deadline_s) as client,
        following(store, client, attempt, latencies),
    ):
        return synchronise(
            store,
            client,
            wish,
            settings,
            clock=clock,
            guard=guard,
            embed=embed,
            facts=facts,
            attempt=attempt,
        )
