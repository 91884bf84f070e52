# SPDX-License-Identifier: Apache-2.0
"""A real delivery server inside a test: real socket, real store, no process of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from pocketrec_cloud.delivery.serving.server import DeliveryServer, Listening, ServerConfig
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["running_server", "serve_in_thread"]


@contextmanager
def serve_in_thread(
    config: ServerConfig,
    *,
    clock: Callable[[], float] = time.time,
    database: DeliveryStore | None = None,
) -> Iterator[str]:
    """Serve on a thread while the block runs.

    Args:
        config: How to serve; port 0 takes a free one.
        clock: Unix seconds, for tests about expiry.
        database: What to remember in; None opens the one that ``config`` names.

    Yields:
        What a device dials, such as "127.0.0.1:50051".

    Raises:
        PocketRecError: The server cannot start, for the reasons ``DeliveryServer`` names.
    """
    with running_server(config, clock=clock, database=database) as listening:
        yield listening.address


@contextmanager
def running_server(
    config: ServerConfig,
    *,
    clock: Callable[[], float] = time.time,
    database: DeliveryStore | None = None,
) -> Iterator[Listening]:
    """Do the same, and yield where admins call too.

    Args:
        config: As for ``serve_in_thread``.
        clock: Likewise.
        database: Likewise.

    Yields:
        Every address.

    Raises:
        PocketRecError: The server cannot start.
    """
    started: Future[tuple[Listening, Callable[[], object]]] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(config, clock, database, started)),
        name="delivery-server",
    )
    thread.start()
    try:
        listening, stop = started.result()
        try:
            yield listening
        finally:
            stop()
    finally:
        thread.join()


async def _serve(
    config: ServerConfig,
    clock: Callable[[], float],
    database: DeliveryStore | None,
    started: Future[tuple[Listening, Callable[[], object]]],
) -> None:
    """Run one server; hand its addresses, or what kept it from starting, to ``started``."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    try:
        server = DeliveryServer(config, clock=clock, database=database)
        listening = await server.start()
    except BaseException as exc:  # noqa: BLE001  it is raised again on the caller's thread
        started.set_exception(exc)
        return
    started.set_result((listening, lambda: loop.call_soon_threadsafe(stopping.set)))
    await stopping.wait()
    await server.stop()
