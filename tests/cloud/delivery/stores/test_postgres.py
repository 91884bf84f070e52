# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL that stops, dies and drops connections under a store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.cloud.delivery.stores.samples import LONG_S, MODEL, ORDER, PLAN, ROLLOUT
from tests.postgres import PostgresServer

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.store_protocols import Change, DeliveryStore
from pocketrec_cloud.delivery.stores.database import PoolOptions
from pocketrec_cloud.delivery.stores.opening import open_store


@pytest.fixture
def store(postgres: PostgresServer, postgres_url: str) -> Iterator[DeliveryStore]:
    """A store whose every pooled connection is in use; the server runs again afterwards."""
    store = open_store(postgres_url, pool=PoolOptions(size=4, overflow=0))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.check(), range(16)))
    yield store
    store.close()
    if not postgres.is_running:
        postgres.start()


class TestRestart:
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_store_goes_on_after_a_restart(
        self, postgres: PostgresServer, store: DeliveryStore, end: str
    ) -> None:
        """Meanwhile calls fail with our error; all that was stored is there."""
        store.record_model(MODEL)
        getattr(postgres, end)()

        for call in (
            store.check,
            lambda: store.find_bundle(MODEL.bundle_digest),
            lambda: store.swap_plans([(PLAN, None)]),
        ):
            with pytest.raises(StoreError):
                call()

        postgres.start()
        for _ in range(8):
            store.check()
        assert store.find_bundle(MODEL.bundle_digest) == MODEL
        assert store.swap_plans([(PLAN, None)]) == [True]

    def test_lost_connections_hurt_nobody(
        self, postgres: PostgresServer, store: DeliveryStore
    ) -> None:
        """Those in the pool are tried before they are lent, and replaced."""
        postgres.terminate_connections()

        for _ in range(8):
            store.check()

    def test_a_listener_finds_its_server_again(
        self, postgres: PostgresServer, store: DeliveryStore
    ) -> None:
        """It returns every change then, as it may have missed some, and hears the next."""
        listener = store.listen()
        assert listener.wait(LONG_S) == frozenset(Change)

        postgres.kill()
        assert listener.wait(0.1) == frozenset()
        postgres.start()

        assert listener.wait(LONG_S) == frozenset(Change)
        store.add_order(ORDER)
        assert listener.wait(LONG_S) == {Change.ORDERS}
        listener.close()

    def test_a_listener_survives_a_lost_connection(
        self, postgres: PostgresServer, store: DeliveryStore
    ) -> None:
        """In the middle of a wait."""
        listener = store.listen()
        listener.wait(LONG_S)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(listener.wait, LONG_S)
            postgres.terminate_connections()
            assert waiting.result(LONG_S) == frozenset(Change)
        listener.close()

    def test_a_lock_that_was_lost_is_reported(
        self, postgres: PostgresServer, store: DeliveryStore
    ) -> None:
        """Somebody else may have held it since; whoever wants it next gets it."""
        with pytest.raises(StoreError), store.lock("publish", timeout_s=LONG_S):
            postgres.terminate_connections()

        with store.lock("publish", timeout_s=LONG_S):
            pass


class TestLoad:
    def test_more_threads_than_connections_wait(self, store: DeliveryStore) -> None:
        """A pool of four serves sixteen."""

        def work(number: int) -> bool:
            plan = replace(PLAN, subject=f"s-{number}")
            return store.swap_plans([(plan, None)]) == [True]

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(64)))

    def test_hundreds_of_notifications_lose_no_kind(self, store: DeliveryStore) -> None:
        """However many orders follow a rollout while nobody waits."""
        listener = store.listen()
        listener.wait(LONG_S)

        store.add_rollout(ROLLOUT)
        for number in range(150):
            store.add_order(replace(ORDER, request_id=f"r-{number}"))

        assert listener.wait(LONG_S) == {Change.ROLLOUTS, Change.ORDERS}
        listener.close()
