# SPDX-License-Identifier: Apache-2.0
"""What the memory before the database may say, and when it has to ask again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.cached_store import CachedStore
from pocketrec_cloud.delivery.store import DeviceRecord, sqlite_engine

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

DEVICE = DeviceRecord(
    device_id="d-1",
    token_sha256=b"t" * 32,
    backend="",
    app_version="",
    os="",
    ram_bytes=0,
    created_at_s=0,
)


@pytest.fixture
def store(deployment: Deployment) -> Iterator[CachedStore]:
    """The database of a store with one publication."""
    layout = deployment.layout
    store = CachedStore(sqlite_engine(layout.database), timestamp=layout.timestamp)
    yield store
    store.close()


def forget_all(store: CachedStore) -> None:
    """Take the tables away, so that only the memory can answer."""
    with store._engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE devices"))
        connection.execute(sa.text("DROP TABLE models"))


def test_a_device_is_looked_up_once(store: CachedStore) -> None:
    """Its id stays what it is."""
    store.add_device(DEVICE)
    assert store.find_device(DEVICE.token_sha256) == "d-1"

    forget_all(store)

    assert store.find_device(DEVICE.token_sha256) == "d-1"
    with pytest.raises(StoreError):
        store.find_device(b"x" * 32)


def test_a_device_is_recalled_once_it_was_looked_up(store: CachedStore) -> None:
    """Before that, nothing but the database could tell; recalling never asks it."""
    store.add_device(DEVICE)
    assert store.recall_device(DEVICE.token_sha256) is None
    store.find_device(DEVICE.token_sha256)

    forget_all(store)

    assert store.recall_device(DEVICE.token_sha256) == "d-1"
    assert store.recall_device(b"x" * 32) is None


def test_an_unknown_device_may_register_later(store: CachedStore) -> None:
    """That there is none is not remembered."""
    assert store.find_device(DEVICE.token_sha256) is None

    store.add_device(DEVICE)

    assert store.find_device(DEVICE.token_sha256) == "d-1"


def test_a_model_is_looked_up_once_per_publication(
    store: CachedStore, deployment: Deployment
) -> None:
    """A newer bundle of the same model is found as soon as it is published."""
    digest = deployment.bundle().model_digest
    first = store.find_model(digest)
    assert store.find_model(digest) is first

    deployment.publish(deployment.bundle(version=2))

    found = store.find_model(digest)
    assert first is not None
    assert found is not None
    assert (first.version, found.version) == (1, 2)


def test_between_publications_the_database_is_not_asked(
    store: CachedStore, deployment: Deployment
) -> None:
    """But for models that are not known."""
    digest = deployment.bundle().model_digest
    known = store.find_model(digest)

    forget_all(store)

    assert store.find_model(digest) == known
    with pytest.raises(StoreError):
        store.find_model(b"x" * 32)


def test_without_a_publication_nothing_is_remembered(
    store: CachedStore, deployment: Deployment
) -> None:
    """Nobody could say when it is out of date."""
    digest = deployment.bundle().model_digest
    deployment.layout.timestamp.unlink()
    assert store.find_model(digest) is not None

    forget_all(store)

    with pytest.raises(StoreError):
        store.find_model(digest)
