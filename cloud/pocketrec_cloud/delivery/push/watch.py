# SPDX-License-Identifier: Apache-2.0
"""One stream of ``WatchPlans``: sends what is due for its device, until something ends it.

The first message comes at once, so that a device knows that it is heard: a plan if there may be
a newer one, otherwise a heartbeat. From then on a plan is made when an order concerns the
device, and looked at now and again, because plans grow old.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from pocketrec.errors import RejectedError, ServiceUnavailableError, StoreError
from pocketrec_cloud.delivery.plans.drafting import PlanRequest
from pocketrec_cloud.delivery.push.hub import Watcher, WatchHub
from pocketrec_cloud.delivery.push.order_keeper import OrderKeeper
from pocketrec_cloud.delivery.records import DeviceRecord, DeviceSession
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.container import plan_version

__all__ = ["PlanStream", "WatchParts"]

_LOG = logging.getLogger(__name__)
_RETRY_S = 5.0  # while the database fails
_LEAST_SHARE = 0.5  # of plan_check_s between two looks at a plan
_HEARTBEAT_SHARE = 0.8  # of heartbeat_s, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchParts:
    """What all streams of a process share.

    Args:
        hub: Wakes them.
        orders: Says how new the newest order is.
        ask: Returns a signed plan, nothing when the installed one is current.
        find_session: Returns whom a token stands for, asking the database; may wait.
        clock: Unix seconds.
        monotonic: Seconds that never go back.
    """

    hub: WatchHub
    orders: OrderKeeper
    ask: Callable[[PlanRequest], Awaitable[bytes]]
    find_session: Callable[[bytes], DeviceSession | None]
    clock: Callable[[], float]
    monotonic: Callable[[], float]


class PlanStream:
    """One device's stream.

    Args:
        parts: What all streams share.
        request: What ``GetPlan`` would be asked for the device that watches.
        session: Says until when it may.
        device: What it declares; None = not known.
        follows_targets: Whether it wants to hear of bundles.
        token_sha256: Of the token that it came with.
    """

    def __init__(
        self,
        parts: WatchParts,
        request: PlanRequest,
        *,
        session: DeviceSession,
        device: DeviceRecord | None,
        follows_targets: bool,
        token_sha256: bytes,
    ) -> None:
        self._parts = parts
        self._session = session
        self._watcher = Watcher(
            request, device=device, follows_targets=follows_targets, clock=parts.monotonic
        )
        self._token_sha256 = token_sha256
        self._sequence = 0

    async def messages(self, last_sequence: int) -> AsyncGenerator[pb.WatchPlansResponse, None]:
        """Yield what is due until the server stops; who reads late gets less, not old things.

        Args:
            last_sequence: What the device has acted upon; 0 = nothing.

        Raises:
            RejectedError: The token has ended, a newer stream of this device took over, there
                are too many streams, or no plan can be made.
            PocketRecError: No plan can be made.
            OSError: A file cannot be read.
        """
        watcher, hub = self._watcher, self._parts.hub
        hub.join(watcher)
        try:
            await self._begin(last_sequence)
            while not watcher.is_ending:
                for message in await self._due():
                    message.sequence = self._sequence
                    yield message
                await watcher.wait()
            if watcher.going_away_ms is None:
                raise RejectedError("a newer stream of this device took over", code="ABORTED")
            going_away = pb.GoingAway(pause_ms=watcher.going_away_ms)
            yield pb.WatchPlansResponse(sequence=self._sequence, going_away=going_away)
        finally:
            hub.leave(watcher)

    async def _begin(self, last_sequence: int) -> None:
        """Set the first marks."""
        watcher, orders, settings = self._watcher, self._parts.orders, self._parts.hub.settings
        if last_sequence > orders.book.last_sequence:  # heard of by another process first
            await asyncio.get_running_loop().run_in_executor(None, orders.refresh)
        watcher.mark("token", self._session.expires_at_s - self._parts.clock())
        if last_sequence == orders.book.last_sequence:
            self._sequence = last_sequence
            watcher.mark("heartbeat")
            watcher.mark("plan", self._parts.hub.spread(settings.plan_check_s))
        else:
            watcher.mark("plan")

    async def _due(self) -> list[pb.WatchPlansResponse]:
        """Return what is due now, and let the next heartbeat come after it."""
        watcher, hub = self._watcher, self._parts.hub
        if watcher.take("token"):
            raise RejectedError("the token has ended; register again", code="UNAUTHENTICATED")
        if watcher.take("session"):
            await self._check_session()
        messages: list[pb.WatchPlansResponse] = []
        if watcher.take("plan"):
            messages += await self._plan()
        if watcher.take("targets"):
            messages.append(pb.WatchPlansResponse(targets_changed=pb.TargetsChanged()))
        if watcher.take("heartbeat") and not messages:
            messages.append(pb.WatchPlansResponse(heartbeat=pb.Heartbeat()))
        if messages:
            pause_s = hub.spread(hub.settings.heartbeat_s, least=_HEARTBEAT_SHARE)
            watcher.postpone("heartbeat", pause_s)
        return messages

    async def _check_session(self) -> None:
        """Refuse a token that was taken back; while the database fails it counts."""
        loop, find = asyncio.get_running_loop(), self._parts.find_session
        try:
            session = await loop.run_in_executor(None, find, self._token_sha256)
        except StoreError as exc:
            _LOG.warning("whether a token still counts has to wait: %s", exc)
            self._watcher.mark("session", self._parts.hub.spread(_RETRY_S, least=_LEAST_SHARE))
            return
        if session is None:
            raise RejectedError(
                "the token does not count any more; register again", code="UNAUTHENTICATED"
            )

    async def _plan(self) -> list[pb.WatchPlansResponse]:
        """Return the newest plan if the device may not have it, or that it has seen all orders."""
        parts, watcher = self._parts, self._watcher
        sequence = parts.orders.book.last_sequence
        try:
            plan = await parts.ask(watcher.request)
        except (StoreError, ServiceUnavailableError) as exc:
            _LOG.warning("a watched plan has to wait: %s", exc)
            watcher.mark("plan", parts.hub.spread(_RETRY_S, least=_LEAST_SHARE))
            return []
        check_s = parts.hub.spread(parts.hub.settings.plan_check_s, least=_LEAST_SHARE)
        watcher.mark("plan", check_s)
        is_newer, self._sequence = sequence != self._sequence, sequence
        if plan:
            watcher.installed(plan_version(plan))
            return [pb.WatchPlansResponse(plan=plan)]
        return [pb.WatchPlansResponse(heartbeat=pb.Heartbeat())] if is_newer else []
