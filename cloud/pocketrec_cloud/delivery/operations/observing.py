# SPDX-License-Identifier: Apache-2.0
"""Tells observers when a call of ours begins, what it sends, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import grpc

from pocketrec_cloud.delivery.boundary.translation import Context
from pocketrec_cloud.delivery.operations.wrapping import Handler, wrap_handler

__all__ = ["Call", "CallObserver", "Ending", "ObservingInterceptor", "is_ours"]

_STATUS = {status.value[0]: status for status in grpc.StatusCode}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that begins.

    Args:
        service: Such as "pocketrec.v1.DeviceService".
        method: Such as "GetPlan".
        is_stream: Whether the answer is a stream.
        context: Of gRPC.
    """

    service: str
    method: str
    is_stream: bool
    context: Context

    def header(self, name: str) -> str:
        """Return what the caller sent as a metadata entry; empty if it sent no text of it."""
        for key, value in self.context.invocation_metadata() or ():
            if key == name and isinstance(value, str):
                return value
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a call ended.

    Args:
        status: What the caller gets; ``CANCELLED`` when it hung up first.
        duration_s: Since the call began.
    """

    status: grpc.StatusCode
    duration_s: float


class CallObserver(Protocol):
    """Wants to know of calls; it runs on the event loop, so it must be quick, and never raise.

    Everything about one call happens in one task: a context variable that ``begin`` sets is
    set for the handler as well.
    """

    def begin(self, call: Call) -> Callable[[Ending], None]:
        """Take note of a call, and return what to do at its end."""

    def sent(self, call: Call, message: object) -> None:
        """Take note of one message of a stream."""


class ObservingInterceptor(grpc.aio.ServerInterceptor):
    """Tells observers about every call of our services; others pass unseen.

    Args:
        observers: Told in this order when a call begins, and in reverse when it ends.
        clock: Seconds, never going back.
    """

    def __init__(
        self, observers: Sequence[CallObserver], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._observers = tuple(observers)
        self._clock = clock

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a call with the observers around it."""
        handler, path = await continuation(handler_call_details), handler_call_details.method
        if handler is None or not is_ours(path):
            return handler
        return wrap_handler(
            handler,
            answer=partial(_answer_observed, self, path),
            stream=partial(_stream_observed, self, path),
        )

    def begin(self, path: str, context: Context, *, is_stream: bool) -> _Watch:
        """Tell everybody that a call begins."""
        _, service, method = path.split("/")
        call = Call(service=service, method=method, is_stream=is_stream, context=context)
        return _Watch(call, self._observers, self._clock)


class _Watch:
    """One call, from begin to end."""

    def __init__(
        self, call: Call, observers: tuple[CallObserver, ...], clock: Callable[[], float]
    ) -> None:
        self._call, self._observers, self._clock = call, observers, clock
        self._began_s = clock()
        self._ends = [observer.begin(call) for observer in observers]

    def sent(self, message: object) -> None:
        for observer in self._observers:
            observer.sent(self._call, message)

    def end(self, error: BaseException | None) -> None:
        ending = Ending(
            status=_status(self._call.context, error), duration_s=self._clock() - self._began_s
        )
        for end in reversed(self._ends):
            end(ending)


async def _answer_observed(
    interceptor: ObservingInterceptor,
    path: str,
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    request: Any,
    context: Context,
) -> Any:
    watch = interceptor.begin(path, context, is_stream=False)
    try:
        response = await behaviour(request, context)
    except BaseException as error:
        watch.end(error)
        raise
    watch.end(None)
    return response


async def _stream_observed(
    interceptor: ObservingInterceptor,
    path: str,
    behaviour: Callable[[Any, Context], AsyncIterator[Any]],
    request: Any,
    context: Context,
) -> AsyncIterator[Any]:
    watch = interceptor.begin(path, context, is_stream=True)
    try:
        async with aclosing(cast("Any", behaviour(request, context))) as messages:
            async for message in messages:
                watch.sent(message)
                yield message
    except BaseException as error:
        watch.end(error)
        raise
    watch.end(None)


def is_ours(path: str) -> bool:
    """Whether the path of a call, such as "/pocketrec.v1.DeviceService/GetPlan", is ours."""
    return path.startswith("/pocketrec.") and path.count("/") == 2


def _status(context: Context, error: BaseException | None) -> grpc.StatusCode:
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return grpc.StatusCode.CANCELLED
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    if code:
        return _STATUS.get(code, grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.OK if error is None else grpc.StatusCode.UNKNOWN
