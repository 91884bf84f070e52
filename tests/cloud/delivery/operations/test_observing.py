# SPDX-License-Identifier: Apache-2.0
"""What observers hear of calls over a real socket."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from tests.cloud.delivery.operations.scripted_service import CHUNK, ScriptedService, call

from pocketrec_cloud.delivery.operations.observing import Call, Ending, ObservingInterceptor
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub


class Notes:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def begin(self, call: Call) -> Callable[[Ending], None]:
        """Note a call and its end."""
        self.lines.append(("begin", call.service, call.method, call.is_stream))
        return lambda ending: self.lines.append(("end", ending.status, ending.duration_s))

    def sent(self, call: Call, message: object) -> None:
        """Note a message."""
        self.lines.append(("sent", call.method))


@pytest.fixture
def notes() -> Notes:
    """An observer."""
    return Notes()


@pytest.fixture
def interceptors(notes: Notes) -> list[grpc.aio.ServerInterceptor]:
    """It, on a clock that ticks once per look."""
    ticks = count()
    return [ObservingInterceptor([notes], clock=lambda: float(next(ticks)))]


class TestObservingInterceptor:
    def test_answered_call(
        self, notes: Notes, interceptors: list[grpc.aio.ServerInterceptor]
    ) -> None:
        """The answer passes as it is; begin and end are told with the time between them."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> bytes:
            return bytes((await DeviceServiceStub(channel).GetPlan(pb.GetPlanRequest())).plan)

        plan = call(interceptors, use)

        assert plan == b"plan 1"
        assert notes.lines == [
            ("begin", "pocketrec.v1.DeviceService", "GetPlan", False),
            ("end", StatusCode.OK, 1.0),
        ]

    @pytest.mark.parametrize(
        ("subject", "status"),
        [("broken", StatusCode.UNAVAILABLE), ("refused", StatusCode.NOT_FOUND)],
    )
    def test_failed_call(
        self,
        notes: Notes,
        interceptors: list[grpc.aio.ServerInterceptor],
        subject: str,
        status: StatusCode,
    ) -> None:
        """The status that the caller gets is the one that observers hear."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> StatusCode:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await DeviceServiceStub(channel).GetPlan(pb.GetPlanRequest(subject=subject))
            return failure.value.code()

        assert call(interceptors, use) is status
        assert notes.lines[-1] == ("end", status, 1.0)

    def test_unknown_failure(
        self, notes: Notes, interceptors: list[grpc.aio.ServerInterceptor]
    ) -> None:
        """An exception that nobody translated ends a call with UNKNOWN."""

        class NoMetadata(ScriptedService):
            async def GetMetadata(self, request: object, context: object) -> Any:  # noqa: N802
                raise ZeroDivisionError

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await DeviceServiceStub(channel).GetMetadata(pb.GetMetadataRequest())

        call(interceptors, use, service=NoMetadata())

        assert notes.lines[-1] == ("end", StatusCode.UNKNOWN, 1.0)

    def test_stream(self, notes: Notes, interceptors: list[grpc.aio.ServerInterceptor]) -> None:
        """Every message of a stream passes and is told."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> list[bytes]:
            stream = DeviceServiceStub(channel).FetchChunk(pb.FetchChunkRequest())
            return [chunk.content async for chunk in stream]

        assert call(interceptors, use) == [CHUNK] * 5
        assert [line[0] for line in notes.lines] == ["begin", *["sent"] * 5, "end"]

    def test_stream_that_is_hung_up_on(
        self, notes: Notes, interceptors: list[grpc.aio.ServerInterceptor]
    ) -> None:
        """Who hangs up ends the call as cancelled."""

        async def use(channel: grpc.aio.Channel, service: ScriptedService) -> None:
            stream = DeviceServiceStub(channel).WatchPlans(pb.WatchPlansRequest())
            await stream.read()
            await service.waiting.wait()
            stream.cancel()

        call(interceptors, use)

        assert notes.lines[-1] == ("end", StatusCode.CANCELLED, 1.0)
