# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL server for tests, from the system's binaries, which a test may break."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["PostgresServer", "find_binaries", "serve_postgres"]

# Lost with the machine, not with the process: tests kill the latter only.
_OPTIONS = "-c fsync=off -c full_page_writes=off -c max_connections=200 -c ssl=on"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """One server on the loopback, with its own folder and an administrator of its own.

    Args:
        binaries: Folder with ``initdb`` and ``pg_ctl``.
        folder: Where all its files are.
        port: TCP port, the same after every start.
        password: The administrator's.
        user: The system's user that runs it; None = who runs the tests.
    """

    binaries: Path
    folder: Path
    port: int
    password: str
    user: str | None

    def url(self, database: str) -> str:
        """Return how to connect to a database."""
        return f"postgresql://tester:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database, and return its URL."""
        name = f"test_{secrets.token_hex(8)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self.url(name)

    def execute(self, statement: str, *, database: str = "postgres") -> None:
        """Execute one statement as the administrator, outside a transaction."""
        import pg8000.dbapi

        connection = pg8000.dbapi.connect(
            "tester",
            host="127.0.0.1",
            port=self.port,
            password=self.password,
            database=database,
            ssl_context=False,
        )
        try:
            connection.autocommit = True
            connection.cursor().execute(statement)
        finally:
            connection.close()

    @property
    def authority(self) -> Path:
        """The PEM file of who vouches for the server's certificate, which is for 127.0.0.1."""
        return self.folder / "authority.crt"

    def start(self) -> None:
        """Start, and return once connections are answered."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} {_OPTIONS}"
        options += f" -c ssl_cert_file={self.folder}/tls.crt -c ssl_key_file={self.folder}/tls.key"
        self._control("start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        """Break off all connections and end in good order."""
        self._control("stop", "-w", "-m", "fast")

    def kill(self) -> None:
        """End at once, as in a crash: the next start recovers from the log."""
        self._control("stop", "-w", "-m", "immediate")

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def terminate_connections(self) -> None:
        """Break off all connections but go on, as a failing network would."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

    @property
    def is_running(self) -> bool:
        """Whether it answers."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _control(self, *arguments: str) -> None:
        _run(self.user, self.binaries / "pg_ctl", "-D", self.folder / "data", *arguments)


def find_binaries() -> Path | None:
    """Return the folder of the newest server that the system has."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return max(found, key=lambda path: int(path.parts[-3])).parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """Run a new server until the end of the block; skip where the system has none.

    Continuous integration fails instead. The server refuses to run as root, so another user
    does it then, and the folder lies where that user may go.
    """
    binaries = find_binaries()
    if binaries is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed: install the package 'postgresql'")
        pytest.skip("PostgreSQL is not installed")
    user = _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="pocketrec-pg-") as folder:
        server = PostgresServer(
            binaries=binaries,
            folder=Path(folder),
            port=_free_port(),
            password=secrets.token_hex(8),
            user=user,
        )
        _create_cluster(server)
        server.start()
        try:
            yield server
        finally:
            if server.is_running:
                server.kill()


def _create_cluster(server: PostgresServer) -> None:
    from tests.cloud.delivery.admin.serving import Authority

    authority = Authority()
    identity = authority.certify("postgres")
    password, key = server.folder / "password", server.folder / "tls.key"
    password.write_text(server.password)
    key.touch(mode=0o600)
    key.write_bytes(identity.key)
    (server.folder / "tls.crt").write_bytes(identity.certificate)
    server.authority.write_bytes(authority.certificate)
    if server.user is not None:
        for path in (server.folder, password, key):
            shutil.chown(path, server.user)
    _run(
        server.user,
        server.binaries / "initdb",
        *("-D", server.folder / "data", "-U", "tester", "--pwfile", password),
        *("-A", "scram-sha-256", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
    )


def _run(user: str | None, *command: str | Path) -> None:
    """Run a program to its end; its output shows only when it fails.

    Another program becomes the other user: would Python do so, it had to fork, which gRPC's
    threads do not always survive.
    """
    as_user: list[str] = []
    if user is not None:
        known = pwd.getpwnam(user)
        as_user = [
            "setpriv",
            f"--reuid={known.pw_uid}",
            f"--regid={known.pw_gid}",
            "--clear-groups",
        ]
    with tempfile.TemporaryFile() as output:  # no pipe: the server would hold it open
        done = subprocess.run(
            [*as_user, *(str(part) for part in command)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        output.seek(0)
        assert done.returncode == 0, output.read().decode(errors="replace")


def _unprivileged_user() -> str | None:
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
