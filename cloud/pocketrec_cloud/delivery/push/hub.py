# SPDX-License-Identifier: Apache-2.0
"""Who is watching, and who of them is woken by what has happened.

A watcher has no queue: what is due for it are marks, and a mark that is set twice is one mark.
So a slow reader gets the newest plan when it comes round to it, and none that it has missed.
All of this belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pocketrec.errors import ConfigError, RejectedError
from pocketrec_cloud.delivery.plans.drafting import PlanRequest
from pocketrec_cloud.delivery.push.order_keeper import News
from pocketrec_cloud.delivery.push.orders import concerns
from pocketrec_cloud.delivery.records import AudienceKind, DeviceRecord, OrderRecord
from pocketrec_cloud.delivery.store_protocols import Change

__all__ = ["WatchHub", "WatchSettings", "Watcher"]

# Of targets_spread_s, until the first device is told of a publication: three of sixty seconds,
# for other processes, which the device may reach, look at a bucket once a second.
_LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How streams behave; times in seconds.

    Args:
        max_streams: Most at once in one process.
        heartbeat_s: Silence after which a heartbeat is sent, give or take a fifth.
        write_timeout_s: How long a device may take to read one message.
        plan_check_s: Within this time after it began, and again and again, a stream's plan
            is looked at: it is issued anew past half its life.
        targets_check_s: A publication is noticed within this time of its coming into force.
        targets_spread_s: The devices of a fleet are told within this time to sync.
        session_check_s: A token that was taken back ends its stream within this time.
        pause_s: When the server stops, devices are asked to wait up to this long.

    Raises:
        ConfigError: One of them is not positive.
    """

    max_streams: int = 10_000
    heartbeat_s: float = 30.0
    write_timeout_s: float = 20.0
    plan_check_s: float = 600.0
    targets_check_s: float = 2.0
    targets_spread_s: float = 60.0
    session_check_s: float = 15.0
    pause_s: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")


class Watcher:
    """One stream's marks: what is due for it, and when.

    Args:
        request: What ``GetPlan`` would be asked for the device that watches.
        device: What it declares; None = not known, so it belongs to no cohort.
        follows_targets: Whether it wants to hear of bundles.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        request: PlanRequest,
        *,
        device: DeviceRecord | None,
        follows_targets: bool,
        clock: Callable[[], float],
    ) -> None:
        self.device = device
        self.request = request
        self.follows_targets = follows_targets
        self.is_replaced = False
        self.going_away_ms: int | None = None
        self._clock = clock
        self._woken = asyncio.Event()
        self._due: dict[str, float] = {}

    def mark(self, what: str, after_s: float = 0.0) -> None:
        """Let something be due, unless it is due before that already."""
        at = self._clock() + after_s
        if at < self._due.get(what, float("inf")):
            self._due[what] = at
            self._woken.set()

    def postpone(self, what: str, after_s: float) -> None:
        """Let something be due then, and not before."""
        self._due[what] = self._clock() + after_s

    def take(self, what: str) -> bool:
        """Whether something is due now; it is not any more."""
        if self._due.get(what, float("inf")) > self._clock():
            return False
        del self._due[what]
        return True

    def end(self, *, going_away_ms: int | None = None) -> None:
        """Let the stream end: for a newer one, or because the server stops."""
        self.is_replaced = going_away_ms is None
        self.going_away_ms = going_away_ms
        self._woken.set()

    @property
    def is_ending(self) -> bool:
        """Whether the stream has to end."""
        return self.is_replaced or self.going_away_ms is not None

    def installed(self, version: int) -> None:
        """Take it that the device has a plan that was sent to it."""
        newest = max(version, self.request.installed_version)
        self.request = replace(self.request, installed_version=newest)

    async def wait(self) -> None:
        """Return when something is due, or the stream has to end."""
        while not self.is_ending:
            self._woken.clear()
            next_s = min(self._due.values()) - self._clock()
            if next_s <= 0:
                return
            try:
                async with asyncio.timeout(next_s):
                    await self._woken.wait()
            except TimeoutError:
                return


class WatchHub:
    """All watchers of one process.

    Args:
        settings: How streams behave.
        rng: Spreads what would happen to all at once.
    """

    def __init__(self, settings: WatchSettings, rng: random.Random | None = None) -> None:
        self.settings = settings
        self._rng = rng or random.Random()  # noqa: S311  spreads load, keeps no secret
        self._watchers: dict[str, Watcher] = {}
        self._subjects: defaultdict[str, set[Watcher]] = defaultdict(set)
        self._is_draining = False

    @property
    def n_watching(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def spread(self, most_s: float, *, least: float = 0.0) -> float:
        """Return a random time up to one, from a share of it on."""
        return most_s * self._rng.uniform(least, 1.0)

    def join(self, watcher: Watcher) -> None:
        """Add a watcher; the stream that the same device had before ends.

        Raises:
            RejectedError: There are too many.
        """
        before = self._watchers.get(watcher.request.device_id)
        if before is not None:
            before.end()
            self.leave(before)
        if len(self._watchers) >= self.settings.max_streams:
            raise RejectedError("too many streams; try again later", code="RESOURCE_EXHAUSTED")
        self._watchers[watcher.request.device_id] = watcher
        self._subjects[watcher.request.subject].add(watcher)
        if self._is_draining:
            self._send_away(watcher)

    def leave(self, watcher: Watcher) -> None:
        """Forget a watcher, if it is still known."""
        if self._watchers.get(watcher.request.device_id) is watcher:
            del self._watchers[watcher.request.device_id]
        same = self._subjects.get(watcher.request.subject, set())
        same.discard(watcher)
        if not same:
            self._subjects.pop(watcher.request.subject, None)

    def concerned(self, order: OrderRecord) -> list[Watcher]:
        """Return the watchers that an order is for; fit for any thread."""
        watchers: Iterable[Watcher] = self._watchers.values()
        if order.audience is AudienceKind.SUBJECT:
            watchers = self._subjects.get(order.audience_value, set())
        return [w for w in list(watchers) if _concerns(order, w)]

    def hear(self, news: News) -> None:
        """Wake whom news concern."""
        for watcher in {w for order in news.orders for w in self.concerned(order)}:
            watcher.mark("plan")
        if Change.ROLLOUTS in news.changes:
            self.hear_of_targets()
            for watcher in self._watchers.values():  # it may be one of plan settings
                watcher.mark("plan", self.spread(self.settings.targets_spread_s))
        if Change.DEVICES in news.changes:
            for watcher in self._watchers.values():
                watcher.mark("session", self.spread(self.settings.session_check_s))

    def hear_of_targets(self) -> None:
        """Let everybody who follows targets be told that another bundle may be due."""
        for watcher in self._watchers.values():
            if watcher.follows_targets:
                after_s = self.spread(self.settings.targets_spread_s, least=_LEAST_SHARE)
                watcher.mark("targets", after_s)

    def drain(self) -> None:
        """Send everybody away, now and from now on."""
        self._is_draining = True
        for watcher in list(self._watchers.values()):
            self._send_away(watcher)

    def _send_away(self, watcher: Watcher) -> None:
        watcher.end(going_away_ms=int(1000 * self.spread(self.settings.pause_s)))


def _concerns(order: OrderRecord, watcher: Watcher) -> bool:
    request = watcher.request
    return concerns(order, request.subject, watcher.device, request.model_digest)
