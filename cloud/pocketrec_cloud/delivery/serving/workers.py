# SPDX-License-Identifier: Apache-2.0
"""Several server processes on the same ports, and the parent that looks after them.

The parent holds the ports without listening on them and serves nothing; the kernel spreads
connections over the workers. Workers are spawned, not forked, so that none inherits threads of
gRPC. One that dies is started again; all end with the parent.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from pocketrec.errors import ConfigError, PocketRecError
from pocketrec_cloud.delivery.serving.config import Listening, ServerConfig, address_of
from pocketrec_cloud.delivery.serving.server import serve

__all__ = ["serve_with_workers"]

_LOG = logging.getLogger(__name__)
_START_TIMEOUT_S = 60.0
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0  # a worker that ran this long died of something new
_KILL_AFTER_S = 5.0  # beyond the grace of calls in flight
_READY = b"ready:"


def serve_with_workers(
    config: ServerConfig,
    *,
    announce: Callable[[Listening], None],
    prepare: Callable[[], None] | None = None,
) -> None:
    """Serve with ``config.workers`` processes until SIGTERM or SIGINT; call it on the main thread.

    Args:
        config: How to serve.
        announce: Told where, once every worker answers.
        prepare: Done first in every worker, such as to configure logging; sent there, so a
            function of a module, or a partial of one.

    Raises:
        ConfigError: A worker cannot start, for the reason it gives.
    """
    with _holding_ports(config) as held:
        workers = [_Worker(held, number, prepare) for number in range(config.workers)]
        with _stopping_on_signals() as stopped:
            try:
                for worker in workers:
                    worker.start()
                metrics, *_ = [worker.wait_until_ready() for worker in workers]
                admin = held.admin
                announce(
                    Listening(
                        address=address_of(held.host, held.port),
                        admin_address="" if admin is None else address_of(admin.host, admin.port),
                        metrics_address=metrics,
                    )
                )
                _look_after(workers, stopped)
            finally:
                _end(workers, config.grace_s + _KILL_AFTER_S)


class _Worker:
    """One process, and what follows it when it dies."""

    def __init__(
        self, config: ServerConfig, number: int, prepare: Callable[[], None] | None
    ) -> None:
        self._config, self._number, self._prepare = config, number, prepare
        self._n_deaths = 0
        self._started_s = 0.0
        self._process: SpawnProcess | None = None
        self._reports: Connection | None = None

    @property
    def sentinels(self) -> list[int]:
        """What becomes ready when the process dies."""
        return [] if self._process is None else [self._process.sentinel]

    def start(self) -> None:
        """Start the process; it does not answer yet."""
        context = multiprocessing.get_context("spawn")
        self._reports, report = context.Pipe(duplex=False)
        arguments = (self._config, self._number, self._prepare, report)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._started_s = time.monotonic()
        self._process.start()
        report.close()

    def wait_until_ready(self) -> str:
        """Return where its metrics are, once it answers.

        Raises:
            ConfigError: It cannot start, for the reason it gives.
        """
        message = b""
        if self._reports is not None and self._reports.poll(_START_TIMEOUT_S):
            try:
                message = self._reports.recv_bytes()
            except EOFError:
                message = b"it died; see its log"
        if not message.startswith(_READY):
            reason = message.decode() or f"no answer in {_START_TIMEOUT_S:g} s"
            raise ConfigError(f"worker {self._number} cannot start: {reason}")
        return message.removeprefix(_READY).decode()

    def revive(self) -> None:
        """Start the process again if it has died, the later the more often it did."""
        if self._process is None or self._process.is_alive():
            return
        lived_s = time.monotonic() - self._started_s
        self._n_deaths = 1 if lived_s >= _STEADY_S else self._n_deaths + 1
        pause_s = min(2.0 ** (self._n_deaths - 1), _LONGEST_PAUSE_S)
        if lived_s < pause_s:
            return  # looked at again soon
        _LOG.error(
            "worker %d died with %s and is started again", self._number, self._process.exitcode
        )
        self.start()

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process is not None and self._process.is_alive():
            self._process.terminate()

    def join(self, timeout_s: float) -> None:
        """Wait for the process to end; kill it when it takes too long."""
        if self._process is None:
            return
        self._process.join(max(0.0, timeout_s))
        if self._process.is_alive():
            _LOG.error("worker %d does not end and is killed", self._number)
            self._process.kill()
            self._process.join()


def _look_after(workers: list[_Worker], stopped: socket.socket) -> None:
    """Start workers that die again, until a signal comes."""
    while True:
        ready = wait([stopped, *(s for worker in workers for s in worker.sentinels)], timeout=1.0)
        if stopped in ready:
            return
        for worker in workers:
            worker.revive()
        if ready:
            time.sleep(0.1)  # a dead worker stays ready until its pause is over


def _end(workers: list[_Worker], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(deadline_s - time.monotonic())


def _work(
    config: ServerConfig, number: int, prepare: Callable[[], None] | None, report: Connection
) -> None:
    """Serve, as a worker."""
    if prepare is not None:
        prepare()
    threading.Thread(target=_end_with_parent, name="pocketrec-parent", daemon=True).start()

    def announce(listening: Listening) -> None:
        report.send_bytes(_READY + listening.metrics_address.encode())
        report.close()

    try:
        asyncio.run(serve(config, announce=announce, worker=number))
    except (PocketRecError, OSError) as exc:
        if report.closed:
            raise
        report.send_bytes(str(exc).encode())


def _end_with_parent() -> None:
    """Stop this process once its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _holding_ports(config: ServerConfig) -> Iterator[ServerConfig]:
    """Bind the ports while the block runs, and yield a configuration that names them.

    Raises:
        ConfigError: A port is taken.
    """
    with _bound(config.host, config.port) as port:
        if config.admin is None:
            yield replace(config, port=port)
            return
        with _bound(config.admin.host, config.admin.port) as admin_port:
            yield replace(config, port=port, admin=replace(config.admin, port=admin_port))


@contextmanager
def _bound(host: str, port: int) -> Iterator[int]:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("this system has no SO_REUSEPORT; serve with one process")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        holder = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {address_of(host, port)!r}: {exc}") from exc
    with holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind(address)
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {address_of(host, port)!r}; is the port taken?"
            ) from exc
        yield int(holder.getsockname()[1])


@contextmanager
def _stopping_on_signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable on SIGTERM or SIGINT."""
    reader, writer = socket.socketpair()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  as signal calls it
        writer.send(b"\0")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with reader, writer:
            yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
