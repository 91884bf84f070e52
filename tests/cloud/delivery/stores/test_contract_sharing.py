# SPDX-License-Identifier: Apache-2.0
"""What every store does for those who share it: news of changes, locks, and an answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.stores.samples import (
    DEVICE,
    LONG_S,
    ORDER,
    PLAN,
    ROLLOUT,
    STATUS,
    put,
)

from pocketrec.errors import StoreLockedError
from pocketrec_cloud.delivery.records import (
    Outcome,
)
from pocketrec_cloud.delivery.store_protocols import Change, DeliveryStore

if TYPE_CHECKING:
    from tests.cloud.delivery.stores.conftest import Opener
CHANGES: dict[Change, Callable[[DeliveryStore], object]] = {
    Change.ORDERS: lambda store: store.add_order(ORDER),
    Change.ROLLOUTS: lambda store: store.swap_rollout(ROLLOUT, replaces=1),
    Change.DEVICES: lambda store: store.revoke_device("d1", 1500),
}


class TestListeners:
    def test_the_first_call_returns_everything(self, store: DeliveryStore) -> None:
        """A listener does not know what happened before it; then there is nothing."""
        listener = store.listen()

        assert listener.wait(LONG_S) == frozenset(Change)
        assert listener.wait(0.0) == frozenset()
        assert listener.wait(0.01) == frozenset()

        listener.close()

    @pytest.mark.parametrize("change", Change)
    def test_a_change_is_heard_from_another_store(
        self, open_another: Opener, change: Change
    ) -> None:
        """By every listener, once, and nothing else with it."""
        ours, theirs = open_another(), open_another()
        put(theirs, DEVICE)
        theirs.add_rollout(ROLLOUT)
        listeners = [ours.listen(), ours.listen()]
        for listener in listeners:
            listener.wait(LONG_S)

        CHANGES[change](theirs)

        for listener in listeners:
            assert listener.wait(LONG_S) == {change}
            assert listener.wait(0.0) == frozenset()
            listener.close()

    def test_what_nobody_acts_on_is_not_told(self, open_another: Opener) -> None:
        """Thousands of devices that register and report wake no server."""
        listener = open_another().listen()
        listener.wait(LONG_S)
        store = open_another()

        put(store, DEVICE)
        store.put_status(STATUS)
        store.put_outcome("o-1", "d1", stage=0, outcome=Outcome.INSTALLED)
        store.swap_plans([(PLAN, None)])
        store.add_order(ORDER)

        assert listener.wait(LONG_S) == {Change.ORDERS}
        store.add_order(ORDER)  # is known already
        assert listener.wait(0.0) == frozenset()
        listener.close()

    def test_a_change_ends_a_wait(self, open_another: Opener) -> None:
        """Long before its time is over."""
        listener, store = open_another().listen(), open_another()
        listener.wait(LONG_S)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(listener.wait, 600.0)
            store.add_order(ORDER)
            assert waiting.result(LONG_S) == {Change.ORDERS}
        listener.close()

    def test_closing_ends_a_wait(self, store: DeliveryStore) -> None:
        """Whoever waits gets nothing; closing twice does no harm."""
        listener = store.listen()
        listener.wait(LONG_S)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(listener.wait, 600.0)
            listener.close()
            assert waiting.result(LONG_S) == frozenset()
        listener.close()
        assert listener.wait(600.0) == frozenset()


class TestLocks:
    def test_a_lock_excludes_others(self, open_another: Opener) -> None:
        """In this process or another, until it is given back; other names are free."""
        ours, theirs = open_another(), open_another()

        with ours.lock("publish", timeout_s=LONG_S):
            for store in (ours, theirs):
                with (
                    pytest.raises(StoreLockedError, match="'publish'"),
                    store.lock("publish", timeout_s=0.01),
                ):
                    pytest.fail("two hold it")
            with theirs.lock("migrate-2", timeout_s=LONG_S):
                pass

        with theirs.lock("publish", timeout_s=LONG_S):
            pass

    def test_a_lock_is_given_back_after_an_error(self, store: DeliveryStore) -> None:
        """Or nobody would get it again."""
        with pytest.raises(ZeroDivisionError), store.lock("publish", timeout_s=LONG_S):
            raise ZeroDivisionError

        with store.lock("publish", timeout_s=0.01):
            pass

    def test_a_waiting_thread_gets_it(self, open_another: Opener) -> None:
        """As soon as the holder is done; never two at a time."""
        stores = [open_another(), open_another()]
        holders: list[int] = []

        def hold(number: int) -> int:
            with stores[number % 2].lock("publish", timeout_s=LONG_S):
                holders.append(number)
                together = len(holders)
                holders.remove(number)
                return together

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(hold, range(12))) == {1}


def test_a_store_answers(store: DeliveryStore) -> None:
    """While nothing is wrong."""
    store.check()
