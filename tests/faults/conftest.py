# SPDX-License-Identifier: Apache-2.0
"""Whole servers over real sockets and databases, to be broken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.device.conftest import (
    Deployment,
    bundle,
    deployment,
    make_bundle,
    make_device,
    model,
    published,
)
from tests.faults.servers import Site
from tests.postgres import PostgresServer, serve_postgres

from pocketrec_cloud.delivery.admin.registry import add_admin
from pocketrec_cloud.delivery.publishing.layout import DATABASE_FILE
from pocketrec_cloud.delivery.records import AdminRole
from pocketrec_cloud.delivery.stores.opening import open_store
from pocketrec_quantization.bundle import BundleFolder

__all__ = ["bundle", "deployment", "make_bundle", "make_device", "model", "published"]


@pytest.fixture(scope="module")
def breakable_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of one module's own."""
    with serve_postgres() as server:
        yield server


@pytest.fixture
def make_site(deployment: Deployment, bundle: BundleFolder) -> Iterator[Callable[..., Site]]:
    """Makes a server over the deployment's folders, not started yet; arguments as ``Site``."""
    with ExitStack() as stack:

        def make(database: str = "", **settings: object) -> Site:
            folder = deployment.folder
            token = prepare_database(folder, database, bundle)
            site = Site(folder, bundle.model_digest, token, database, **settings)
            stack.callback(site.close)
            return site

        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A server on SQLite that runs."""
    site = make_site()
    site.start()
    return site


def prepare_database(folder: Path, database: str, bundle: BundleFolder) -> str:
    """Let a database know what is published, and an operator, whose token is returned."""
    file = folder / "store" / DATABASE_FILE
    target = open_store(database or file)
    try:
        if database:
            source = open_store(file)
            record = source.find_model(bundle.model_digest)
            source.close()
            assert record is not None
            target.record_model(record)
        name = f"olga-{len(target.list_admins())}"
        return add_admin(target, name, AdminRole.OPERATOR, now_s=int(time.time()))
    finally:
        target.close()
