# SPDX-License-Identifier: Apache-2.0
"""The commands ``admins ...`` on a real database."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pocketrec.errors import ConfigError, StoreError
from pocketrec_cloud.delivery.admin.admins_cli import admins_add, admins_list, admins_remove
from pocketrec_cloud.delivery.admin.registry import COMMAND_LINE
from pocketrec_cloud.delivery.publishing.layout import DATABASE_FILE
from pocketrec_cloud.delivery.records import AdminRole
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.opening import open_store


def run(command: click.Command, *words: object) -> str:
    """Run a command and return what it printed on stdout."""
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@contextmanager
def database_of(folder: Path) -> Iterator[DeliveryStore]:
    """Open the database in a store's folder."""
    with closing(open_store(folder / DATABASE_FILE)) as store:
        yield store


class TestAdd:
    def test_token_is_printed_once_and_not_kept(self, tmp_path: Path) -> None:
        """What stdout has is the token, and the database has its digest."""
        token = run(admins_add, "vera", "--role", "viewer", "--store", tmp_path).strip()

        with database_of(tmp_path) as store:
            admin = store.find_admin(hashlib.sha256(token.encode()).digest())
        assert admin is not None
        assert (admin.name, admin.role, admin.expires_at_s) == ("vera", AdminRole.VIEWER, 0)
        files = tmp_path.glob(f"{DATABASE_FILE}*")
        assert not any(token.encode() in file.read_bytes() for file in files)

    def test_token_may_end(self, tmp_path: Path) -> None:
        """An expiry in days is one from now on."""
        words = ("vera", "--role", "viewer", "--expires-days", 30, "--json", "-")
        result = json.loads(run(admins_add, *words, "--store", tmp_path))

        assert 29 * 24 * 3600 < result["expires_at_s"] - time.time() <= 30 * 24 * 3600

    def test_it_is_written_down(self, tmp_path: Path) -> None:
        """The log says that somebody with the database did it."""
        run(admins_add, "olga", "--role", "operator", "--store", tmp_path)

        with database_of(tmp_path) as store:
            (entry,) = store.list_audit(after=0, limit=9)
        assert (entry.admin, entry.action, entry.subject) == (COMMAND_LINE, "admin added", "olga")
        assert json.loads(entry.details) == {"role": "operator", "expires_at_s": 0}

    def test_a_name_is_given_once(self, tmp_path: Path) -> None:
        """Nobody's token ends because somebody else is called the same."""
        run(admins_add, "vera", "--role", "viewer", "--store", tmp_path)

        with pytest.raises(StoreError, match="there is an admin 'vera' already"):
            run(admins_add, "vera", "--role", "operator", "--store", tmp_path)

    @pytest.mark.parametrize("name", ["", "two words", "server", "rollout", COMMAND_LINE])
    def test_some_names_are_refused(self, tmp_path: Path, name: str) -> None:
        """Who is named in the log is not mistaken for the server."""
        with pytest.raises(ConfigError, match="name: expected"):
            run(admins_add, name, "--role", "viewer", "--store", tmp_path)

    def test_the_database_is_named_once(self, tmp_path: Path) -> None:
        """A folder or a URL, not neither, not both."""
        url = f"sqlite:///{tmp_path / 'other.db'}"
        for words in ((), ("--store", tmp_path, "--database", url)):
            with pytest.raises(ConfigError, match="either --store FOLDER or --database URL"):
                run(admins_add, "vera", "--role", "viewer", *words)
        run(admins_add, "vera", "--role", "viewer", "--database", url)

        assert "vera" in run(admins_list, "--database", url)


class TestListAndRemove:
    def test_no_secrets_are_listed(self, tmp_path: Path) -> None:
        """Names, roles and times, in a table or as JSON."""
        token = run(admins_add, "vera", "--role", "viewer", "--store", tmp_path).strip()

        table = run(admins_list, "--store", tmp_path)
        text = run(admins_list, "--store", tmp_path, "--json", "-")

        (admin,) = json.loads(text)["admins"]
        assert (admin["name"], admin["role"]) == ("vera", "viewer")
        assert "viewer" in table
        assert token not in table + text
        assert hashlib.sha256(token.encode()).hexdigest() not in table + text

    def test_a_removed_admin_has_no_token(self, tmp_path: Path) -> None:
        """The token ends, and the log says so."""
        token = run(admins_add, "vera", "--role", "viewer", "--store", tmp_path).strip()

        run(admins_remove, "vera", "--store", tmp_path)

        with database_of(tmp_path) as store:
            assert store.find_admin(hashlib.sha256(token.encode()).digest()) is None
            assert [e.action for e in store.list_audit(after=0, limit=9)] == [
                "admin added",
                "admin removed",
            ]

    def test_who_is_not_there_cannot_be_removed(self, tmp_path: Path) -> None:
        """A mistyped name is answered with those that are known."""
        run(admins_add, "vera", "--role", "viewer", "--store", tmp_path)

        with pytest.raises(ConfigError, match=r"expected an admin's name \(vera\), got 'wera'"):
            run(admins_remove, "wera", "--store", tmp_path)
