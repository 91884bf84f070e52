# SPDX-License-Identifier: Apache-2.0
"""Harms what devices are answered, on purpose, so that apps can be tried against a bad cloud.

Only calls of ``DeviceService`` are harmed, and only on the wire: what the server stores stays
right. A device must live through all of it, keep ranking, and install nothing that is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.message import Message

from pocketrec_cloud.delivery.boundary.translation import Context
from pocketrec_cloud.delivery.operations.faults import ChaosSettings
from pocketrec_cloud.delivery.operations.wrapping import Handler, wrap_handler
from pocketrec_proto.v1 import device_service_pb2 as pb

__all__ = ["ChaosInterceptor"]

_LOG = logging.getLogger(__name__)
_SERVICE = "/pocketrec.v1.DeviceService/"
_MAX_REMEMBERED = 10_000
_MAX_MESSAGES_BEFORE_CUT = 3
_TIMESTAMP = "timestamp.json"
# What devices verify; their calls with other bytes are refused by the server, not by them.
_CORRUPTIBLE = {
    pb.GetMetadataResponse: "content",
    pb.FetchChunkResponse: "content",
    pb.GetPlanResponse: "plan",
    pb.WatchPlansResponse: "plan",
    pb.GetTargetsResponse: "assignment",
}


class ChaosInterceptor(grpc.aio.ServerInterceptor):
    """Makes the faults of some settings.

    Args:
        settings: What goes wrong, and how often.
        note: Gets the name of each fault that is made.
        sleep: Awaited with seconds, for delays.
    """

    def __init__(
        self,
        settings: ChaosSettings,
        note: Callable[[str], None],
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._dice = random.Random(settings.seed)  # noqa: S311  no secret is made of it
        self._note = note
        self._sleep = sleep
        self._first_seen: OrderedDict[tuple[bytes, ...], bytes] = OrderedDict()
        _LOG.warning("CHAOS IS ON (%s): devices are answered wrongly on purpose", settings)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a device's call with the faults around it."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_SERVICE):
            return handler
        return wrap_handler(
            handler,
            answer=partial(_answer_harmed, self),
            stream=partial(_stream_harmed, self),
        )

    async def delay(self) -> None:
        """Wait as long as the settings say."""
        least, most = self._settings.delay_s
        if most:
            self._note("delay")
            await self._sleep(self._dice.uniform(least, most))

    def chance(self, fault: str) -> bool:
        """Roll the dice for one fault, and note it if it is to be made."""
        share: float = getattr(self._settings, fault)
        happens = self._dice.random() < share
        if happens:
            self._note(fault)
        return happens

    def choose(self, n_ways: int) -> int:
        """Return one of 0 to ``n_ways`` - 1."""
        return self._dice.randrange(n_ways)

    def harmed(self, request: object, message: Message) -> Message:
        """Return what is sent in place of a message: itself, an old one, or a broken one."""
        message = self._aged(request, message)
        field = _CORRUPTIBLE.get(cast("Any", type(message)))
        if field is None or not (content := getattr(message, field)) or not self.chance("corrupt"):
            return message
        broken = bytearray(content)
        broken[self._dice.randrange(len(broken))] ^= 1 << self._dice.randrange(8)
        copy = type(message)()
        copy.CopyFrom(message)
        setattr(copy, field, bytes(broken))
        return copy

    def _aged(self, request: object, message: Message) -> Message:
        """Return what was first answered to this question, if the dice say so."""
        if isinstance(message, pb.GetMetadataResponse) and isinstance(
            request, pb.GetMetadataRequest
        ):
            if request.filename != _TIMESTAMP:
                return message  # files with a version in their names never change
            old = self._first((b"timestamp",), message.content)
            if self._settings.stale and old != message.content and self.chance("stale"):
                return pb.GetMetadataResponse(content=old)
        if isinstance(message, pb.GetPlanResponse) and isinstance(request, pb.GetPlanRequest):
            if not self._settings.stale or not message.plan:
                return message
            old = self._first((request.model_digest, request.subject.encode()), message.plan)
            if old != message.plan and self.chance("stale"):
                return pb.GetPlanResponse(plan=old)
        return message

    def _first(self, question: tuple[bytes, ...], answer: bytes) -> bytes:
        """Return the first answer to a question, remembering this one if it is."""
        first = self._first_seen.setdefault(question, answer)
        if len(self._first_seen) > _MAX_REMEMBERED:
            self._first_seen.popitem(last=False)
        return first


async def _answer_harmed(
    chaos: ChaosInterceptor,
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    request: Any,
    context: Context,
) -> Any:
    await chaos.delay()
    drops = chaos.chance("drop")
    if drops and chaos.choose(2) == 0:
        await _break_off(context)
    response = await behaviour(request, context)
    if drops:  # the work is done, and the device does not know
        await _break_off(context)
    return chaos.harmed(request, response)


async def _stream_harmed(
    chaos: ChaosInterceptor,
    behaviour: Callable[[Any, Context], AsyncIterator[Any]],
    request: Any,
    context: Context,
) -> AsyncIterator[Any]:
    await chaos.delay()
    n_left = chaos.choose(_MAX_MESSAGES_BEFORE_CUT) if chaos.chance("drop") else -1
    async with aclosing(cast("Any", behaviour(request, context))) as messages:
        async for message in messages:
            if n_left == 0:
                await _break_off(context)
            n_left -= 1
            yield chaos.harmed(request, message)
    if n_left >= 0:
        await _break_off(context)


async def _break_off(context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "chaos: broken off on purpose")
