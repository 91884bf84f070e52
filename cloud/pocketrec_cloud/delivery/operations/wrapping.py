# SPDX-License-Identifier: Apache-2.0
"""Puts something around a gRPC handler, whichever of its four shapes it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Any, TypeAlias, cast

import grpc

from pocketrec_cloud.delivery.boundary.translation import Context

__all__ = ["AroundAnswer", "AroundStream", "Guard", "Handler", "guard_handler", "wrap_handler"]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # not generic when it runs
AroundAnswer: TypeAlias = Callable[
    [Callable[[Any, Context], Awaitable[Any]], Any, Context], Awaitable[Any]
]
"""Gets the behaviour, the request (or the stream of them) and the context; returns the answer."""
AroundStream: TypeAlias = Callable[
    [Callable[[Any, Context], AsyncIterator[Any]], Any, Context], AsyncIterator[Any]
]
"""The same for behaviours that answer with a stream; an async generator function."""
Guard: TypeAlias = Callable[[Any, Context], AbstractAsyncContextManager[Any]]
"""Gets the request (or the stream of them) and the context; is held while the behaviour answers,
which gets the request that it gives."""


def wrap_handler(handler: Handler, *, answer: AroundAnswer, stream: AroundStream) -> Handler:
    """Return a handler that calls ``answer`` or ``stream`` with the behaviour of another one.

    Args:
        handler: Its behaviour is a coroutine function, or an async generator function if it
            answers with a stream.
        answer: For handlers with one answer.
        stream: For handlers with a stream of answers.
    """
    asked = "stream" if handler.request_streaming else "unary"
    answered = "stream" if handler.response_streaming else "unary"
    behaviour = getattr(handler, f"{asked}_{answered}")
    around = stream if handler.response_streaming else answer
    make = getattr(grpc, f"{asked}_{answered}_rpc_method_handler")
    wrapped: Handler = make(
        partial(around, behaviour),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return wrapped


def guard_handler(handler: Handler, guard: Guard) -> Handler:
    """Return a handler that answers as another one does, while a guard is held.

    Args:
        handler: As for ``wrap_handler``.
        guard: Made anew for each call; may end the call instead.
    """
    return wrap_handler(handler, answer=partial(_answer, guard), stream=partial(_stream, guard))


async def _answer(
    guard: Guard,
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    request: Any,
    context: Context,
) -> Any:
    async with guard(request, context) as admitted:
        return await behaviour(admitted, context)


async def _stream(
    guard: Guard,
    behaviour: Callable[[Any, Context], AsyncIterator[Any]],
    request: Any,
    context: Context,
) -> AsyncIterator[Any]:
    async with (
        guard(request, context) as admitted,
        aclosing(cast("Any", behaviour(admitted, context))) as messages,
    ):
        async for message in messages:
            yield message
