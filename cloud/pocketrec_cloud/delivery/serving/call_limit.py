# SPDX-License-Identifier: Apache-2.0
"""How many calls one process works on at once; streams that mostly wait are counted elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from pocketrec_cloud.delivery.boundary.translation import Context
from pocketrec_cloud.delivery.operations.observing import is_ours
from pocketrec_cloud.delivery.operations.wrapping import Handler, guard_handler

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
        return guard_handler(handler, self.taken)

    @asynccontextmanager
    async def taken(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Count one call while the block runs, or end it because there are too many."""
        if self._n_calls >= self._most:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once; try again"
            )
        self._n_calls += 1
        try:
            yield request
        finally:
            self._n_calls -= 1
