# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the names of calls come from the .proto
"""A device service that answers what a test says, behind a real socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from pocketrec.errors import RejectedError, StoreError
from pocketrec_cloud.delivery.boundary.translation import translated
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import (
    DeviceServiceServicer,
    add_DeviceServiceServicer_to_server,
)

__all__ = ["CHUNK", "DEADLINE_S", "ScriptedService", "call", "serving"]

T = TypeVar("T")
DEADLINE_S = 20.0
CHUNK = bytes(range(256))
_LOG = logging.getLogger(__name__)


@dataclass
class ScriptedService(DeviceServiceServicer):
    """Answers from its fields; a plan for the subject "broken" breaks.

    Attributes:
        timestamp: What ``timestamp.json`` holds.
        plan: What everybody gets.
        n_plans: How many plans were made.
        waiting: Set once somebody watches.
    """

    timestamp: bytes = b"timestamp 1"
    plan: bytes = b"plan 1"
    n_plans: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    async def GetChallenge(self, request: pb.GetChallengeRequest, context: Any) -> Any:
        """Answer with a challenge."""
        return pb.GetChallengeResponse(challenge=b"challenge")

    async def Register(self, request: pb.RegisterRequest, context: Any) -> Any:
        """Answer with a token."""
        return pb.RegisterResponse(device_id="device", token="token", lifetime_s=3600)

    async def GetTargets(self, request: pb.GetTargetsRequest, context: Any) -> Any:
        """Answer with an assignment."""
        return pb.GetTargetsResponse(assignment=b"assignment")

    async def ReportStatus(self, request: pb.ReportStatusRequest, context: Any) -> Any:
        """Thank for the report."""
        return pb.ReportStatusResponse()

    async def GetMetadata(self, request: pb.GetMetadataRequest, context: Any) -> Any:
        """Answer with the timestamp, whatever is asked for."""
        return pb.GetMetadataResponse(content=self.timestamp)

    async def GetPlan(self, request: pb.GetPlanRequest, context: Any) -> Any:
        """Log from a thread, then answer or fail."""
        async with translated(context, "GetPlan"):
            await asyncio.get_running_loop().run_in_executor(None, _LOG.info, "planning")
            if request.subject == "broken":
                raise StoreError("the disk at /secret/path is gone")
            if request.subject == "refused":
                raise RejectedError("no such model", code="NOT_FOUND")
            self.n_plans += 1
            return pb.GetPlanResponse(plan=self.plan)

    async def FetchChunk(self, request: pb.FetchChunkRequest, context: Any) -> AsyncIterator[Any]:
        """Send five chunks."""
        for number in range(5):
            yield pb.FetchChunkResponse(offset_bytes=number * len(CHUNK), content=CHUNK)

    async def WatchPlans(self, request: pb.WatchPlansRequest, context: Any) -> AsyncIterator[Any]:
        """Send a plan, and wait for ever."""
        yield pb.WatchPlansResponse(sequence=1, plan=self.plan)
        self.waiting.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def serving(
    service: DeviceServiceServicer, interceptors: Sequence[grpc.aio.ServerInterceptor]
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve while the block runs; gives a connection."""
    server = grpc.aio.server(interceptors=list(interceptors))
    add_DeviceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def call(
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    use: Callable[[grpc.aio.Channel, ScriptedService], Awaitable[T]],
    *,
    service: ScriptedService | None = None,
    executor: ThreadPoolExecutor | None = None,
) -> T:
    """Return what ``use`` makes of a connection to a scripted service behind interceptors."""

    async def run() -> T:
        if executor is not None:
            asyncio.get_running_loop().set_default_executor(executor)
        scripted = service or ScriptedService()
        async with serving(scripted, interceptors) as channel:
            return await asyncio.wait_for(use(channel, scripted), DEADLINE_S)

    return asyncio.run(run())
