# SPDX-License-Identifier: Apache-2.0
"""How a process hears of changes in a SQL store: SQLite is asked often, PostgreSQL tells."""

from __future__ import annotations

import os
import select
import socket
import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import pg8000.dbapi

from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.database import CHANNEL
from pocketrec_cloud.delivery.stores.postgres import PostgresAddress

__all__ = ["PostgresListener", "SqliteListener"]

_ASK_EVERY_S = 0.05
_HEARTBEAT_S = 1.0
_DIAL_AGAIN_S = 0.5


class SqliteListener:
    """A ``ChangeListener`` of a SQLite file.

    Asking is a look at the file's own counter of changes, some microseconds.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._version = -1
        self._seen: dict[str, int] = {}  # nothing yet: the first call returns every change
        self._closing = threading.Event()
        self._turn = threading.Lock()

    def wait(self, timeout_s: float) -> frozenset[Change]:
        """Return what may have changed since the last call, or nothing after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        while not self._closing.is_set():
            with self._turn:
                news = self._look()
            left_s = deadline_s - time.monotonic()
            if news or left_s <= 0:
                return news
            self._closing.wait(min(left_s, _ASK_EVERY_S))
        return frozenset()

    def close(self) -> None:
        """Stop listening; a ``wait`` under way returns soon."""
        self._closing.set()
        with self._turn:
            self._forget()

    def _look(self) -> frozenset[Change]:
        if self._closing.is_set():
            return frozenset()
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(
                    self._path, isolation_level=None, check_same_thread=False
                )
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return frozenset()
            counts = dict(self._connection.execute("SELECT name, value FROM counters"))
        except sqlite3.Error:  # the file is busy, or away; the next look tells
            self._forget()
            return frozenset()
        news = {change for change in Change if counts.get(change) != self._seen.get(change)}
        self._version, self._seen = version, counts
        return frozenset(news)

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._version, self._seen = None, -1, {}


class PostgresListener:
    """A ``ChangeListener`` of a PostgreSQL database, on a connection of its own.

    Args:
        address: Where the database is.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._connection: Any = None
        self._descriptor = -1  # of the same socket, which the driver may wrap for TLS
        self._waker, self._wake = socket.socketpair()
        self._is_closed = False
        self._turn = threading.Lock()

    def wait(self, timeout_s: float) -> frozenset[Change]:
        """Return what may have changed since the last call, or nothing after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        with self._turn:
            while not self._is_closed:
                try:
                    if self._connection is None:
                        self._connect()
                        return frozenset(Change)
                    news = self._ask()
                except (OSError, pg8000.dbapi.Error):
                    self._hang_up()
                    news = frozenset()
                left_s = deadline_s - time.monotonic()
                if news or left_s <= 0:
                    return news
                self._sleep(left_s)
        return frozenset()

    def close(self) -> None:
        """Stop listening; a ``wait`` under way returns soon."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake.close()  # which makes the other end readable for good
        with self._turn:
            self._hang_up()
            self._waker.close()

    def _connect(self) -> None:
        dialled = self._address.dial()
        self._descriptor = os.dup(dialled.fileno())
        self._connection = self._address.connect(sock=dialled)
        self._connection.notifications = deque()  # the driver's own forgets after a hundred
        self._connection.execute_simple(f"LISTEN {CHANNEL}")

    def _ask(self) -> frozenset[Change]:
        """Exchange a few bytes, which brings what the server has told meanwhile."""
        self._connection.execute_simple(";")
        told = self._connection.notifications
        news = {payload for _, channel, payload in told if channel == CHANNEL}
        told.clear()
        return frozenset(change for change in Change if change.value in news)

    def _sleep(self, at_most_s: float) -> None:
        """Wait for the server to say something, or for ``close``.

        Not for ever: what the server told right after an answer waits in the driver already,
        and a server that is gone says nothing.
        """
        if self._connection is None:
            select.select([self._waker], [], [], min(at_most_s, _DIAL_AGAIN_S))
        else:
            readable = [self._waker.fileno(), self._descriptor]
            select.select(readable, [], [], min(at_most_s, _HEARTBEAT_S))

    def _hang_up(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(OSError, pg8000.dbapi.Error):  # it was lost
                connection.close()
