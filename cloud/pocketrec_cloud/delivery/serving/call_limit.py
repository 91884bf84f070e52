# SPDX-License-Identifier: Apache-2.0
"""How many calls one process works on at once; streams that mostly wait are counted elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, cast

import grpc

from pocketrec_cloud.delivery.operations.observing import is_ours
from pocketrec_cloud.delivery.operations.wrapping import Handler, wrap_handler
from pocketrec_cloud.delivery.serving.translation import Context

__all__ = ["CallLimit"]


class CallLimit(grpc.aio.ServerInterceptor):
    """Refuses calls of our services beyond a number; others pass.

    Args:
        most: Calls at once.
        apart: Paths that do not count, such as "/pocketrec.v1.DeviceService/WatchPlans".
    """

    def __init__(self, most: int, *, apart: frozenset[str] = frozenset()) -> None:
        self._most = most
        self._apart = apart
        self._n_calls = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a call with the limit around it."""
        handler, path = await continuation(handler_call_details), handler_call_details.method
        if handler is None or not is_ours(path) or path in self._apart:
            return handler
        return wrap_handler(handler, answer=partial(_answer, self), stream=partial(_stream, self))

    @asynccontextmanager
    async def taken(self, context: Context) -> AsyncIterator[None]:
        """Count one call while the block runs, or end it because there are too many."""
        if self._n_calls >= self._most:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once; try again"
            )
        self._n_calls += 1
        try:
            yield
        finally:
            self._n_calls -= 1


async def _answer(
    limit: CallLimit,
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    request: Any,
    context: Context,
) -> Any:
    async with limit.taken(context):
        return await behaviour(request, context)


async def _stream(
    limit: CallLimit,
    behaviour: Callable[[Any, Context], AsyncIterator[Any]],
    request: Any,
    context: Context,
) -> AsyncIterator[Any]:
    async with limit.taken(context), aclosing(cast("Any", behaviour(request, context))) as messages:
        async for message in messages:
            yield message
