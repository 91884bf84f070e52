# SPDX-License-Identifier: Apache-2.0
"""How to connect to PostgreSQL, and how a pool keeps away from connections that are lost."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

import pg8000.dbapi
import sqlalchemy as sa
from sqlalchemy.exc import DisconnectionError

from pocketrec.errors import ConfigError

__all__ = ["PostgresAddress", "guard_connections"]

_CONNECT_TIMEOUT_S = 10.0
_STATEMENT_TIMEOUT_S = 10
_ANSWER_TIMEOUT_S = 20.0  # above the server's own limit, so that only a dead server meets it
_SSL_MODES = ("disable", "prefer", "require", "verify-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """Where a database is, and who asks for it; the password shows nowhere.

    Args:
        host: Name or address.
        port: TCP port.
        database: By name.
        user: By name.
        password: None = the server asks for none.
        ssl_mode: "disable"; "prefer" and "require" encrypt without asking who answers;
            "verify-full" asks for a certificate of this host.
        ssl_root: PEM file of the authority that signs it; empty = the system's.

    Raises:
        ConfigError: The mode is none of these.
    """

    host: str
    port: int
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    ssl_mode: str = "prefer"
    ssl_root: str = ""

    def __post_init__(self) -> None:
        if self.ssl_mode not in _SSL_MODES:
            raise ConfigError(
                f"expected sslmode to be one of {', '.join(_SSL_MODES)}, got {self.ssl_mode!r}"
            )

    @classmethod
    def from_url(cls, url: sa.URL) -> PostgresAddress:
        """Return what a URL such as ``postgresql://user:pw@host:5432/database`` says.

        Options are ``sslmode`` and ``sslrootcert``. A password that the URL does not have is
        taken from the environment's ``PGPASSWORD``.

        Raises:
            ConfigError: The user, host or database is missing, or an option is unknown.
        """
        options = dict(url.query)
        ssl_mode = str(options.pop("sslmode", "prefer"))
        ssl_root = str(options.pop("sslrootcert", ""))
        if options:
            raise ConfigError(
                f"expected no options but sslmode and sslrootcert, got {', '.join(options)}"
            )
        if not url.host or not url.database or not url.username:
            raise ConfigError("expected postgresql://user@host/database")
        return cls(
            host=url.host,
            port=url.port or 5432,
            database=url.database,
            user=url.username,
            password=url.password or os.environ.get("PGPASSWORD"),
            ssl_mode=ssl_mode,
            ssl_root=ssl_root,
        )

    def connect(self, *, is_patient: bool = False, sock: socket.socket | None = None) -> Any:
        """Return a new driver connection, which commits every statement by itself.

        Args:
            is_patient: Whether statements may take as long as they like.
            sock: A connected socket to use; None = make one.

        Raises:
            pg8000.dbapi.Error: The server refused.
            OSError: It cannot be reached, or broke off.
        """
        limit_ms = 0 if is_patient else _STATEMENT_TIMEOUT_S * 1000
        connected = sock or self.dial()
        connected.settimeout(None if is_patient else _ANSWER_TIMEOUT_S)
        try:
            connection = pg8000.dbapi.Connection(
                self.user,
                host=self.host,
                database=self.database,
                password=self.password,
                ssl_context=self._ssl_context(),
                application_name="pocketrec",
                startup_params={"statement_timeout": str(limit_ms)},
                sock=connected,
            )
        except BaseException:
            connected.close()
            raise
        connection.autocommit = True
        return connection

    def dial(self) -> socket.socket:
        """Return a socket that is connected to the server.

        Raises:
            OSError: It cannot be reached.
        """
        connected = socket.create_connection((self.host, self.port), timeout=_CONNECT_TIMEOUT_S)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def _ssl_context(self) -> ssl.SSLContext | bool | None:
        """Return what the driver takes: False = no, None = if the server can."""
        if self.ssl_mode == "disable":
            return False
        if self.ssl_mode == "prefer":
            return None
        context = ssl.create_default_context(cafile=self.ssl_root or None)
        if self.ssl_mode == "require":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def guard_connections(engine: sa.Engine) -> None:
    """Never hand out a pooled connection that the server has left.

    SQLAlchemy's own ``pool_pre_ping`` would do, did the driver not let errors of the socket
    through as they are, which SQLAlchemy does not take for a lost connection.
    """

    @sa.event.listens_for(engine, "checkout")
    def _ping(connection: Any, _record: Any, _proxy: Any) -> None:
        try:
            connection.execute_simple(";")
        except (OSError, pg8000.dbapi.Error) as exc:
            raise DisconnectionError("the server has left") from exc

    @sa.event.listens_for(engine, "handle_error")
    def _mark_lost(context: Any) -> None:
        if isinstance(context.original_exception, OSError):
            context.is_disconnect = True
