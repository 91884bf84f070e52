# SPDX-License-Identifier: Apache-2.0
"""Streams whose caller does not read, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from pocketrec_cloud.delivery.boundary.translation import Context
from pocketrec_cloud.delivery.operations.wrapping import Handler
from pocketrec_cloud.delivery.push.slow_readers import broken_off_after

PATIENCE_S = 30.0
LARGE = bytes(1024 * 1024)  # more than both sides buffer


async def serve_to_a_caller_that_does_not_read() -> int:
    """Return how many messages were written until the stream ended by itself."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        del request, context
        n_written = 0
        try:
            while True:
                with broken_off_after(0.2):
                    yield LARGE
                n_written += 1
        finally:
            ended.set_result(n_written)

    server = grpc.aio.server()
    handler: Handler = grpc.unary_stream_rpc_method_handler(stream)
    handlers = grpc.method_handlers_generic_handler("test.Test", {"Stream": handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_stream("/test.Test/Stream")(b"")
        await call.read()
        n_written = await asyncio.wait_for(ended, PATIENCE_S)
        call.cancel()
    await server.stop(None)
    return n_written


class TestSlowReaders:
    def test_stream_ends_when_nobody_reads(self) -> None:
        """The caller keeps its connection open, and the server does not wait for it for ever."""
        assert asyncio.run(serve_to_a_caller_that_does_not_read()) >= 1
