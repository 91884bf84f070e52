# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import socket
import sqlite3
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cloud.delivery.stores.samples import DEVICE, LONG_S, MODEL, ORDER, put
from tests.postgres import PostgresServer

from pocketrec.errors import ConfigError, StoreError
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.database import PoolOptions
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_cloud.delivery.stores.opening import open_store, parse_database
from pocketrec_cloud.delivery.stores.postgres import PostgresAddress
from pocketrec_cloud.delivery.stores.sql import SqlStore

SECRET = "correct-horse"


def texts_of(error: BaseException) -> str:
    """Return all that a log would show of an error and its causes."""
    return "".join(traceback.format_exception(error))


class TestNames:
    @pytest.mark.parametrize("name", ["a.db", "sub/a.db", "/tmp/a.db", "sqlite:////tmp/a.db"])
    def test_a_path_is_a_sqlite_file(self, name: str) -> None:
        """With or without the scheme."""
        assert parse_database(name) == Path(name.removeprefix("sqlite:///"))
        assert parse_database(Path("x:y")) == Path("x:y")

    def test_memory_is_a_store_of_its_own(self) -> None:
        """Nobody else can have the same one."""
        assert isinstance(open_store("memory:"), MemoryStore)

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
    def test_a_url_says_where_postgresql_is(self, scheme: str) -> None:
        """Special characters are escaped as in any URL."""
        url = f"{scheme}://u%40x:p%2Fw@db.example:5433/pocket?sslmode=verify-full&sslrootcert=ca"

        assert parse_database(url) == PostgresAddress(
            host="db.example",
            port=5433,
            database="pocket",
            user="u@x",
            password="p/w",
            ssl_mode="verify-full",
            ssl_root="ca",
        )

    def test_the_environment_may_hold_the_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The URL's counts before it; the port has the usual default."""
        monkeypatch.setenv("PGPASSWORD", SECRET)

        bare = parse_database("postgresql://u@h/d")
        full = parse_database("postgresql://u:pw@h/d")

        assert isinstance(bare, PostgresAddress)
        assert isinstance(full, PostgresAddress)
        assert (bare.password, full.password, bare.port) == (SECRET, "pw", 5432)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "memory://",
            "mysql://u:{}@h/d",
            "postgresql://u:{}@h",
            "postgresql://:{}@h/d",
            "postgresql://u:{}@h/d?sslmode=maybe",
            "postgresql://u:{}@h/d?hostaddr=1",
            "postgresql://u:{}@h:port/d",
            "postgresql+psycopg2://u:{}@h/d",
            "sqlite://",
        ],
    )
    def test_what_is_no_database_is_refused(self, name: str) -> None:
        """And the password is repeated nowhere."""
        with pytest.raises(ConfigError) as caught:
            parse_database(name.format(SECRET))

        assert SECRET not in texts_of(caught.value)

    @pytest.mark.parametrize("options", [{"size": 0}, {"overflow": -1}])
    def test_impossible_pools_are_refused(self, options: dict[str, int]) -> None:
        """Nobody could ever get a connection."""
        with pytest.raises(ConfigError):
            PoolOptions(**options)


class TestSqlite:
    def test_records_survive_a_restart(self, tmp_path: Path) -> None:
        """What one process stored, the next one finds."""
        store = open_store(tmp_path / "a.db")
        put(store, DEVICE)
        store.close()

        again = SqlStore.open(tmp_path / "a.db")

        assert again.find_device("d1") == DEVICE
        again.close()

    def test_what_is_no_database_is_refused(self, tmp_path: Path) -> None:
        """By name, with what to look at."""
        path = tmp_path / "a.db"
        path.write_bytes(b"no database at all" * 100)

        with pytest.raises(StoreError, match=r"a\.db"):
            open_store(path)

    def test_a_missing_folder_is_refused(self, tmp_path: Path) -> None:
        """A typing error makes no tree of folders."""
        with pytest.raises(StoreError):
            open_store(tmp_path / "missing" / "a.db")

    def test_errors_are_ours_and_heal(self, tmp_path: Path) -> None:
        """A damaged database is named; once it is restored, the same store goes on."""
        store = open_store(tmp_path / "a.db")
        store.record_model(MODEL)
        with sqlite3.connect(tmp_path / "a.db") as connection:
            connection.execute("ALTER TABLE models RENAME TO gone")
        connection.close()

        with pytest.raises(StoreError, match=r"a\.db"):
            store.find_bundle(MODEL.bundle_digest)
        with pytest.raises(StoreError, match=r"a\.db"):
            store.record_model(MODEL)

        with sqlite3.connect(tmp_path / "a.db") as connection:
            connection.execute("ALTER TABLE gone RENAME TO models")
        connection.close()
        assert store.find_bundle(MODEL.bundle_digest) == MODEL
        store.close()

    def test_lock_names_are_plain(self, tmp_path: Path) -> None:
        """They become names of files."""
        store = open_store(tmp_path / "a.db")

        with pytest.raises(ConfigError):
            store.lock("../a", timeout_s=0.0)

        store.close()


class TestPostgres:
    def test_a_wrong_password_is_shown_nowhere(self, postgres: PostgresServer) -> None:
        """Neither it nor the right one."""
        url = postgres.create_database().replace(postgres.password, SECRET)

        with pytest.raises(StoreError, match=r"127\.0\.0\.1") as caught:
            open_store(url)

        shown = texts_of(caught.value)
        assert SECRET not in shown
        assert postgres.password not in shown
        assert SECRET not in repr(parse_database(url))

    def test_a_missing_server_is_named(self) -> None:
        """With what to look at."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            url = f"postgresql://u:{SECRET}@127.0.0.1:{port}/d"

            with pytest.raises(StoreError, match="see whether the server runs") as caught:
                open_store(url)

        assert SECRET not in texts_of(caught.value)

    @pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
    def test_who_answers_need_not_be_known(self, postgres_url: str, mode: str) -> None:
        """Encrypted or not, records and changes come through."""
        store = open_store(f"{postgres_url}?sslmode={mode}")
        listener = store.listen()
        listener.wait(LONG_S)

        store.add_order(ORDER)

        assert listener.wait(LONG_S) == {Change.ORDERS}
        listener.close()
        store.close()

    def test_a_server_may_have_to_prove_itself(
        self, postgres: PostgresServer, postgres_url: str, tmp_path: Path
    ) -> None:
        """By a certificate of an authority that is named, or of one that the system trusts."""
        store = open_store(f"{postgres_url}?sslmode=verify-full&sslrootcert={postgres.authority}")
        store.check()
        store.close()

        with pytest.raises(StoreError):
            open_store(f"{postgres_url}?sslmode=verify-full")
        with pytest.raises(StoreError):
            open_store(f"{postgres_url}?sslmode=verify-full&sslrootcert={tmp_path / 'missing'}")

    def test_parameters_are_not_logged(self, postgres_url: str) -> None:
        """An error says nothing of what was to be stored."""
        store = open_store(postgres_url)
        put(store, DEVICE)
        other = replace(DEVICE, device_id="d2", locale=SECRET)

        with pytest.raises(StoreError) as caught:
            put(store, other, b"c2")

        assert SECRET not in texts_of(caught.value)
        store.close()
