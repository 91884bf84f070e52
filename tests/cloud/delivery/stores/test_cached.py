# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.stores.samples import DEVICE, MODEL, PLAN, put

from pocketrec_cloud.delivery.records import DeviceSession
from pocketrec_cloud.delivery.store_protocols import Change, DeliveryStore
from pocketrec_cloud.delivery.stores.cached import CachedStore
from pocketrec_cloud.delivery.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tests.cloud.delivery.stores.conftest import Opener

SESSION = DeviceSession(device_id="d1", expires_at_s=5000)


class Surroundings:
    """A publication and a clock that move only when a test says so."""

    def __init__(self) -> None:
        self.stamp: object = (1, 2)
        self.now_s = 0.0

    def cache(self, store: DeliveryStore) -> CachedStore:
        """Put a memory in front of a store."""
        return CachedStore(store, stamp=lambda: self.stamp, clock=lambda: self.now_s)


@pytest.fixture
def around() -> Surroundings:
    """What the memory depends on."""
    return Surroundings()


@pytest.fixture
def behind() -> MemoryStore:
    """The store behind the memory, with one device."""
    store = MemoryStore()
    put(store, DEVICE)
    return store


class TestSessions:
    def test_a_session_is_looked_up_once(self, behind: MemoryStore, around: Surroundings) -> None:
        """And recalled after that, without the store; those of others are not."""
        store = around.cache(behind)
        assert store.recall_session(b"t" * 32) is None
        assert store.find_session(b"t" * 32) == SESSION

        behind.revoke_device("d1", 1500)  # as another process would

        assert store.find_session(b"t" * 32) == SESSION
        assert store.recall_session(b"t" * 32) == SESSION
        assert store.find_session(b"x" * 32) is None

    def test_a_revocation_by_another_process_takes_effect(
        self, behind: MemoryStore, around: Surroundings
    ) -> None:
        """Five seconds after the store was asked last, at most."""
        store = around.cache(behind)
        store.find_session(b"t" * 32)
        behind.revoke_device("d1", 1500)

        around.now_s = 5.5

        assert store.recall_session(b"t" * 32) is None
        assert store.find_session(b"t" * 32) is None

    def test_a_revocation_by_this_process_takes_effect_at_once(
        self, behind: MemoryStore, around: Surroundings
    ) -> None:
        """There is nothing to wait for."""
        store = around.cache(behind)
        store.find_session(b"t" * 32)

        assert store.revoke_device("d1", 1500)

        assert store.find_session(b"t" * 32) is None
        assert not store.revoke_device("d2", 1500)

    def test_a_new_token_ends_the_one_before_at_once(
        self, behind: MemoryStore, around: Surroundings
    ) -> None:
        """In this process."""
        store = around.cache(behind)
        store.find_session(b"t" * 32)

        assert put(store, replace(DEVICE, token_sha256=b"u" * 32), b"c2")

        assert store.find_session(b"t" * 32) is None
        assert store.find_session(b"u" * 32) == SESSION

    def test_an_unknown_device_may_register_later(self, around: Surroundings) -> None:
        """That there is none is not remembered."""
        store = around.cache(MemoryStore())
        assert store.find_session(b"t" * 32) is None

        put(store, DEVICE)

        assert store.find_session(b"t" * 32) == SESSION


class TestModels:
    def test_a_model_is_looked_up_once_per_publication(
        self, behind: MemoryStore, around: Surroundings
    ) -> None:
        """A newer bundle of the same model is found as soon as it is published."""
        store = around.cache(behind)
        newer = replace(MODEL, bundle_digest=b"c" * 32, version=2)
        behind.record_model(MODEL)
        assert store.find_model(b"m" * 32) == MODEL

        behind.record_model(newer)
        assert store.find_model(b"m" * 32) == MODEL
        around.stamp = (3, 4)

        assert store.find_model(b"m" * 32) == newer
        assert store.find_model(b"x" * 32) is None

    def test_without_a_publication_nothing_is_remembered(
        self, behind: MemoryStore, around: Surroundings
    ) -> None:
        """Nobody could say when it is out of date."""
        around.stamp = ()
        store = around.cache(behind)
        behind.record_model(MODEL)
        assert store.find_model(b"m" * 32) == MODEL

        newer = replace(MODEL, bundle_digest=b"c" * 32, version=2)
        behind.record_model(newer)

        assert store.find_model(b"m" * 32) == newer


def test_all_else_is_the_stores(open_another: Opener, around: Surroundings) -> None:
    """Whatever it keeps its records in."""
    store: DeliveryStore = around.cache(open_another())

    assert store.swap_plans([(PLAN, None)]) == [True]
    assert store.find_plans([(PLAN.subject, PLAN.model_digest)]) == [PLAN]
    listener = store.listen()
    assert listener.wait(30.0) == frozenset(Change)
    listener.close()
    with store.lock("publish", timeout_s=30.0):
        store.check()
