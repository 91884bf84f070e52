# SPDX-License-Identifier: Apache-2.0
"""Puts something around a gRPC handler, whichever of its four shapes it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc

from pocketrec_cloud.delivery.serving.translation import Context

__all__ = ["AroundAnswer", "AroundStream", "Handler", "wrap_handler"]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # not generic when it runs
AroundAnswer: TypeAlias = Callable[
    [Callable[[Any, Context], Awaitable[Any]], Any, Context], Awaitable[Any]
]
"""Gets the behaviour, the request (or the stream of them) and the context; returns the answer."""
AroundStream: TypeAlias = Callable[
    [Callable[[Any, Context], AsyncIterator[Any]], Any, Context], AsyncIterator[Any]
]
"""The same for behaviours that answer with a stream; an async generator function."""


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
