# SPDX-License-Identifier: Apache-2.0
"""Refuses messages that are no protobuf of their call, which gRPC would take for our failure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.boundary.translation import Context, translated
from pocketrec_cloud.delivery.operations.observing import is_ours
from pocketrec_cloud.delivery.operations.wrapping import Handler, guard_handler

__all__ = ["DecodingInterceptor"]


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands for a message until somebody can refuse it."""


class DecodingInterceptor(grpc.aio.ServerInterceptor):
    """Ends calls of our services with INVALID_ARGUMENT when a message cannot be decoded.

    It has to be the innermost interceptor.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a call that never fails to decode."""
        handler, path = await continuation(handler_call_details), handler_call_details.method
        if handler is None or not is_ours(path) or handler.request_deserializer is None:
            return handler
        method = path.rpartition("/")[2]
        safe: Handler = handler._replace(  # type: ignore[attr-defined]  # a named tuple
            request_deserializer=partial(_decode, handler.request_deserializer)
        )
        return guard_handler(safe, partial(_admitted, method))


def _decode(deserialize: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return deserialize(content)
    except DecodeError:
        return _Undecodable()


@asynccontextmanager
async def _admitted(method: str, request: Any, context: Context) -> AsyncIterator[Any]:
    """Give the request to be answered, or end the call because it is no message."""
    if isinstance(request, AsyncIterator):
        request = _decoded(request)
    else:
        async with translated(context, method):
            _check(request)
    yield request


async def _decoded(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the messages of a stream; the behaviour translates what this raises."""
    async for request in requests:
        _check(request)
        yield request


def _check(request: Any) -> None:
    if isinstance(request, _Undecodable):
        raise RejectedError("expected a message of this call", code="INVALID_ARGUMENT")
