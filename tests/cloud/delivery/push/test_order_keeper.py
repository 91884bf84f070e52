# SPDX-License-Identifier: Apache-2.0
"""The order book of a process, kept fresh."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.cloud.delivery.conftest import Clock
from tests.cloud.delivery.push.conftest import make_order
from tests.cloud.delivery.stores.samples import ROLLOUT

from pocketrec_cloud.delivery.push.order_keeper import News, OrderKeeper
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.memory import MemoryStore

MODEL = b"m" * 32
PATIENCE_S = 20.0


@pytest.fixture
def store() -> MemoryStore:
    """What servers share."""
    return MemoryStore()


@pytest.fixture
def clock() -> Clock:
    """The server's clock."""
    return Clock(now_s=100)


@pytest.fixture
def keeper(store: MemoryStore, clock: Clock) -> Iterator[OrderKeeper]:
    """A keeper that looks when it is told to."""
    keeper = OrderKeeper(store, clock)
    yield keeper
    keeper.close()


def planner(keeper: OrderKeeper) -> str | None:
    """Return which planner is ordered for anybody."""
    settings = keeper.settings_for("ann", "", MODEL)
    return None if settings is None else settings.planner


class TestOrderKeeper:
    def test_orders_from_before_hold(self, store: MemoryStore, clock: Clock) -> None:
        """A process that starts knows what was ordered before."""
        store.add_order(make_order(0))

        assert planner(OrderKeeper(store, clock)) == "uniform-4"

    def test_refresh_tells_of_new_and_cancelled_orders(
        self, store: MemoryStore, keeper: OrderKeeper
    ) -> None:
        """Whoever listens learns which orders are concerned, and how new the newest is."""
        heard: list[News] = []
        keeper.subscribe(heard.append)
        order = store.add_order(make_order(0))
        keeper.refresh()
        store.add_order(make_order(0, request_id="cancel", cancels=order.sequence))
        keeper.refresh()

        assert [(news.orders, news.sequence) for news in heard] == [((order,), 1), ((order,), 2)]
        assert planner(keeper) is None

    def test_refresh_tells_of_expired_orders(
        self, store: MemoryStore, keeper: OrderKeeper, clock: Clock
    ) -> None:
        """An order that ends concerns those it was for."""
        order = store.add_order(make_order(0, expires_at_s=200))
        keeper.refresh()
        heard: list[News] = []
        keeper.subscribe(heard.append)
        clock.now_s = 200
        keeper.refresh()
        keeper.refresh()

        assert [news.orders for news in heard] == [(order,)]

    def test_changes_of_the_store_are_heard(self, store: MemoryStore, keeper: OrderKeeper) -> None:
        """Its thread hears of rollouts too, but not of all there was at the start."""
        heard: list[frozenset[Change]] = []
        told = threading.Event()

        def hear(news: News) -> None:
            heard.append(news.changes)
            told.set()

        keeper.subscribe(hear)
        keeper.start()
        store.add_order(make_order(0))
        assert told.wait(PATIENCE_S)
        told.clear()
        store.add_rollout(ROLLOUT)

        assert told.wait(PATIENCE_S)
        assert heard == [frozenset(), frozenset({Change.ROLLOUTS})]
