# SPDX-License-Identifier: Apache-2.0
"""A real delivery server inside a test: real socket, real store, no process of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from pocketrec_cloud.delivery.server import DeliveryServer, ServerConfig

__all__ = ["serve_in_thread"]


@contextmanager
def serve_in_thread(
    config: ServerConfig, *, clock: Callable[[], float] = time.time
) -> Iterator[str]:
    """Serve on a thread while the block runs.

    Args:
        config: How to serve; port 0 takes a free one.
        clock: Unix seconds, for tests about expiry.

    Yields:
        What a client dials, such as "127.0.0.1:50051".

    Raises:
        PocketRecError: The server cannot start, for the reasons ``DeliveryServer`` names.
    """
    started: Future[tuple[str, Callable[[], object]]] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(config, clock, started)), name="delivery-server"
    )
    thread.start()
    try:
        target, stop = started.result()
        try:
            yield target
        finally:
            stop()
    finally:
        thread.join()


async def _serve(
    config: ServerConfig,
    clock: Callable[[], float],
    started: Future[tuple[str, Callable[[], object]]],
) -> None:
    """Run one server; hand its address, or what kept it from starting, to ``started``."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    try:
        server = DeliveryServer(config, clock=clock)
        target = await server.start()
    except BaseException as exc:  # noqa: BLE001  # it is raised again on the caller's thread
        started.set_exception(exc)
        return
    started.set_result((target, lambda: loop.call_soon_threadsafe(stopping.set)))
    await stopping.wait()
    await server.stop()
