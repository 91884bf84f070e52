# SPDX-License-Identifier: Apache-2.0
"""Keeps a process's order book fresh, and tells who listens what has changed in the store.

One thread waits for changes. A change that it misses is found when it asks again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pocketrec.errors import PocketRecError
from pocketrec_cloud.delivery.plans.rules import PlanSettings
from pocketrec_cloud.delivery.push.orders import OrderBook, settings_of
from pocketrec_cloud.delivery.records import DeviceRecord, OrderRecord
from pocketrec_cloud.delivery.store_protocols import Change, DeliveryStore

__all__ = ["News", "OrderKeeper", "Subscriber"]

_LOG = logging.getLogger(__name__)
_POLL_S = 2.0  # how late an order is where nothing tells of changes
_PAUSE_S = 1.0  # between attempts while the database fails


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What has changed.

    Args:
        changes: What may have changed in the store.
        orders: Orders that hold now, or do not hold any more.
        sequence: The newest one in the book.
    """

    changes: frozenset[Change]
    orders: tuple[OrderRecord, ...]
    sequence: int


Subscriber: TypeAlias = Callable[[News], None]
"""Hears of news on the keeper's thread, or on one that refreshes; must not wait."""


class OrderKeeper:
    """The orders that hold now, as ``PlanRules``; safe to share between threads.

    Args:
        store: Where orders are.
        clock: Unix seconds.
        poll_s: Seconds after which it asks again, told of a change or not.

    Raises:
        StoreError: The database fails.
    """

    def __init__(
        self, store: DeliveryStore, clock: Callable[[], float], *, poll_s: float = _POLL_S
    ) -> None:
        self._store = store
        self._clock = clock
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._listener = store.listen()
        self._book = OrderBook().with_records(store.list_orders(after=0), now_s=clock())

    @property
    def book(self) -> OrderBook:
        """The orders as of the last look."""
        return self._book

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tell somebody of all news from now on."""
        self._subscribers = (*self._subscribers, subscriber)

    def start(self) -> None:
        """Watch the store from now on, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="pocketrec-orders", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stopping.set()
        self._listener.close()
        if self._thread is not None:
            self._thread.join()

    def refresh(self, changes: frozenset[Change] = frozenset()) -> None:
        """Look for orders that are new, cancelled or expired, and tell of what has changed.

        Args:
            changes: What else has changed.

        Raises:
            StoreError: The database fails; nobody was told anything.
        """
        with self._lock:
            before, now_s = self._book, self._clock()
            records = self._store.list_orders(after=before.last_sequence)
            ended = {order.sequence: order for order in before.expired_since(now_s)}
            if records or ended:
                self._book = before.with_records(records, now_s=now_s)
        changed = ended | {r.sequence: r for r in records if not r.cancels}
        taken_back = (before.orders.get(record.cancels) for record in records if record.cancels)
        changed |= {order.sequence: order for order in taken_back if order is not None}
        if changed or changes:
            news = News(
                changes=changes,
                orders=tuple(changed.values()),
                sequence=self._book.last_sequence,
            )
            for subscriber in self._subscribers:
                subscriber(news)

    def settings_for(
        self, subject: str, device_id: str, model_digest: bytes
    ) -> PlanSettings | None:
        """Return what the order says that holds for a device; see ``PlanRules``.

        Raises:
            StoreError: The database fails.
        """

        def device() -> DeviceRecord | None:
            return self._store.find_device(device_id) if device_id else None

        order = self._book.find(subject, device, model_digest, now_s=self._clock())
        return None if order is None else settings_of(order)

    def _run(self) -> None:
        is_first = True
        while not self._stopping.is_set():
            try:
                heard = self._listener.wait(self._poll_s)
                self.refresh(frozenset() if is_first else heard - {Change.ORDERS})
                is_first = False
            except (PocketRecError, OSError):
                if self._stopping.is_set():
                    return
                _LOG.exception("orders stay as they are until the store answers")
                self._stopping.wait(_PAUSE_S)
