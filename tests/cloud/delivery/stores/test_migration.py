# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.cloud.delivery.stores.samples import DEVICE, MODEL, ORDER, PLAN, put
from tests.postgres import PostgresServer

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.records import DeviceRecord
from pocketrec_cloud.delivery.stores import migration
from pocketrec_cloud.delivery.stores.database import Database
from pocketrec_cloud.delivery.stores.migration import migrate, read_revision
from pocketrec_cloud.delivery.stores.opening import open_database, open_store
from pocketrec_cloud.delivery.stores.schema import HEAD, METADATA

# What the first release made by itself, before there were revisions.
FIRST_TABLES = sa.MetaData()
sa.Table(
    "devices",
    FIRST_TABLES,
    sa.Column("device_id", sa.String(32), primary_key=True),
    sa.Column("token_sha256", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("app_version", sa.Text, nullable=False),
    sa.Column("os", sa.Text, nullable=False),
    sa.Column("ram_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at_s", sa.BigInteger, nullable=False),
)
sa.Table(
    "models",
    FIRST_TABLES,
    sa.Column("bundle_digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("model_digest", sa.LargeBinary(32), nullable=False, index=True),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)
sa.Table(
    "plans",
    FIRST_TABLES,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("model_digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("planner", sa.Text, nullable=False),
    sa.Column("budget_bytes", sa.BigInteger, nullable=False),
    sa.Column("issued_at_s", sa.BigInteger, nullable=False),
    sa.Column("expires_at_s", sa.BigInteger, nullable=False),
    sa.Column("container", sa.LargeBinary, nullable=False),
)
OLD_DEVICE = {
    "device_id": "f" * 32,
    "token_sha256": b"o" * 32,
    "backend": "onnxruntime",
    "app_version": "0.9",
    "os": "ios",
    "ram_bytes": 2**33,
    "created_at_s": 700,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return str(tmp_path / "pocketrec.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """Connections to it that change no table by themselves."""
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def old(database: Database) -> Database:
    """The database of the first release, with one row in each table."""
    rows = {"devices": OLD_DEVICE, "models": fields(MODEL), "plans": fields(PLAN)}
    with database.write() as connection:
        FIRST_TABLES.create_all(connection)
        for name, row in rows.items():
            connection.execute(FIRST_TABLES.tables[name].insert(), row)
    return database


def fields(record: Any) -> dict[str, Any]:
    """Return a record's fields by name."""
    return {name: getattr(record, name) for name in record.__slots__}


def differences(database: Database, metadata: sa.MetaData) -> list[Any]:
    """Compare the database's tables with those that somebody expects."""
    with database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))


class TestTables:
    def test_a_new_database_has_todays_tables(self, url: str, database: Database) -> None:
        """To the last column, index and default."""
        assert read_revision(database) is None
        open_store(url).close()

        assert read_revision(database) == HEAD
        assert differences(database, METADATA) == []

    def test_the_first_revision_is_the_first_release(self, database: Database) -> None:
        """To the last column, index and default."""
        migrate(database, "0001")

        assert differences(database, FIRST_TABLES) == []

    def test_the_newest_script_is_the_one_we_expect(self) -> None:
        """Or databases would be migrated again and again."""
        scripts = ScriptDirectory(str(Path(migration.__file__).parent / "migrations"))

        assert scripts.get_current_head() == HEAD

    def test_many_open_a_new_database_at_once(self, url: str, database: Database) -> None:
        """One makes the tables, the others wait."""
        with ThreadPoolExecutor(4) as pool:
            for store in pool.map(open_store, [url] * 4):
                store.close()

        assert differences(database, METADATA) == []


class TestOldDatabase:
    def test_it_opens_with_all_its_data(self, url: str, old: Database) -> None:
        """Devices of before have no key: their tokens have expired, and they register again."""
        assert read_revision(old) == "0001"

        store = open_store(url)

        assert read_revision(old) == HEAD
        assert store.find_device("f" * 32) == DeviceRecord(
            **OLD_DEVICE, public_key=b"", token_expires_at_s=0, seen_at_s=700
        )
        session = store.find_session(b"o" * 32)
        assert session is not None
        assert session.expires_at_s == 0
        assert store.find_bundle(MODEL.bundle_digest) == MODEL
        assert store.find_plans([(PLAN.subject, PLAN.model_digest)]) == [PLAN]
        assert store.add_order(ORDER).sequence == 1
        store.close()

    def test_its_tables_become_todays(self, url: str, old: Database) -> None:
        """No trace of how they came to be."""
        open_store(url).close()

        assert differences(old, METADATA) == []

    def test_it_can_go_back(self, url: str, old: Database) -> None:
        """With what the first release kept, and up again after that."""
        store = open_store(url)
        put(store, DEVICE)
        store.close()

        migrate(old, "0001")

        assert differences(old, FIRST_TABLES) == []
        devices = FIRST_TABLES.tables["devices"]
        with old.read() as connection:
            found = connection.execute(devices.select().order_by(devices.c.created_at_s)).mappings()
            rows = [dict(row) for row in found]
            plans = connection.execute(FIRST_TABLES.tables["plans"].select()).mappings()
            assert [dict(row) for row in plans] == [fields(PLAN)]
        assert rows[0] == OLD_DEVICE
        assert rows[1]["device_id"] == DEVICE.device_id

        store = open_store(url)
        assert store.find_bundle(MODEL.bundle_digest) == MODEL
        store.close()


class TestOddDatabases:
    def test_a_newer_database_is_refused(self, url: str, database: Database) -> None:
        """By name of its revision, and nothing in it is touched."""
        open_store(url).close()
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")

        with pytest.raises(StoreError, match="'0999'"):
            open_store(url)

        assert read_revision(database) == "0999"

    def test_a_migration_that_fails_changes_nothing(self, url: str, old: Database) -> None:
        """It is one transaction: here a table is in its way."""
        with old.write() as connection:
            connection.exec_driver_sql("CREATE TABLE counters (wrong TEXT)")

        with pytest.raises(StoreError):
            open_store(url)

        assert read_revision(old) == "0001"
        with old.write() as connection:
            connection.exec_driver_sql("DROP TABLE counters")
        assert differences(old, FIRST_TABLES) == []
