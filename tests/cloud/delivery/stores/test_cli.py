# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

from tests.cloud.delivery.stores.samples import MODEL
from tests.commands import run_command, run_command_json
from tests.postgres import PostgresServer

from pocketrec.cli import ExitCode
from pocketrec_cloud.delivery.stores.opening import open_store
from pocketrec_cloud.delivery.stores.schema import HEAD

COMMANDS = {
    "store.status": "pocketrec_cloud.delivery.stores.cli:store_status",
    "store.upgrade": "pocketrec_cloud.delivery.stores.cli:store_upgrade",
}


def test_an_empty_database_gets_its_tables(tmp_path: Path) -> None:
    """Status changes nothing; a second upgrade finds nothing to do."""
    words = ("--database", tmp_path / "a.db")

    before = run_command_json(COMMANDS, "store", "status", *words)
    first = run_command_json(COMMANDS, "store", "upgrade", *words)
    after = run_command_json(COMMANDS, "store", "status", *words)
    second = run_command_json(COMMANDS, "store", "upgrade", *words)

    assert (before["revision"], before["is_newest"]) == (None, False)
    assert (first["before"], first["revision"]) == (None, HEAD)
    assert (after["revision"], after["newest"], after["is_newest"]) == (HEAD, HEAD, True)
    assert second["before"] == HEAD
    store = open_store(tmp_path / "a.db")
    store.record_model(MODEL)
    store.close()


def test_people_read_a_line_without_a_password(postgres: PostgresServer) -> None:
    """The database is named by host and name."""
    url = postgres.create_database()

    status = run_command(COMMANDS, "store", "status", "--database", url)
    upgrade = run_command(COMMANDS, "store", "upgrade", "--database", url)

    assert "revision empty" in status.output
    assert f"revision {HEAD}" in upgrade.output
    for result in (status, upgrade):
        assert result.exit_code == ExitCode.OK
        assert postgres.password not in result.output
        assert url.rpartition("/")[2] in result.output


def test_a_url_that_is_none_is_refused() -> None:
    """With what was expected."""
    result = run_command(COMMANDS, "store", "upgrade", "--database", "mysql://u:pw@h/d")

    assert result.exit_code not in (ExitCode.OK, 1)
    assert "postgresql://USER" in result.output
    assert "u:pw" not in result.output
