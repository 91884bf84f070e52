# SPDX-License-Identifier: Apache-2.0
"""Every kind of store, empty, and records to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.postgres import PostgresServer

from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_cloud.delivery.stores.opening import open_store
from pocketrec_cloud.delivery.stores.schema import COUNTERS, METADATA

Opener: TypeAlias = Callable[[], DeliveryStore]


@pytest.fixture(scope="session")
def shared_postgres_url(postgres: PostgresServer) -> str:
    """A PostgreSQL database with all tables."""
    url = postgres.create_database()
    open_store(url).close()
    return url


@pytest.fixture
def postgres_url(postgres: PostgresServer, shared_postgres_url: str) -> str:
    """A PostgreSQL database with all tables, which are empty: faster than a new one."""
    statements = [
        f"DELETE FROM {table.name}" for table in METADATA.sorted_tables if table is not COUNTERS
    ]
    statements.append(f"UPDATE {COUNTERS.name} SET value = 0")
    name = shared_postgres_url.rpartition("/")[2]
    postgres.execute("; ".join(statements), database=name)
    return shared_postgres_url


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database that several stores, or processes, can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'pocketrec.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def open_another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Open one empty database again and again; memory is always the same object."""
    with ExitStack() as stores:
        memory = MemoryStore()

        def open_one() -> DeliveryStore:
            if request.param == "memory":
                return memory
            if request.param == "sqlite":
                store = open_store(tmp_path / "pocketrec.db")
            else:
                store = open_store(request.getfixturevalue("postgres_url"))
            stores.callback(store.close)
            return store

        yield open_one


@pytest.fixture
def store(open_another: Opener) -> DeliveryStore:
    """One empty store."""
    return open_another()
