# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the names of calls come from the .proto
"""``DeviceService`` behind gRPC: authenticate, run the handler off the loop, translate errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import grpc

from pocketrec_cloud.delivery import handlers
from pocketrec_cloud.delivery.error_catalogue import describe_error
from pocketrec_cloud.delivery.handlers import DeliveryService
from pocketrec_cloud.delivery.plan_queue import DEFAULT_MAX_BATCH, PlanQueue
from pocketrec_cloud.delivery.rate_limit import peer_key
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceServicer

__all__ = ["DeviceServicer"]

P = ParamSpec("P")
R = TypeVar("R")
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_LOG = logging.getLogger(__name__)
_OUR_FAULT = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
)


class DeviceServicer(DeviceServiceServicer):
    """Answers devices.

    Args:
        service: What the handlers work on.
        executor: Runs the handlers, which read disks and compute.
        max_plan_batch: Most requests for plans that are worked on together.

    Raises:
        ConfigError: ``max_plan_batch`` is below 1.
    """

    def __init__(
        self,
        service: DeliveryService,
        executor: Executor,
        *,
        max_plan_batch: int = DEFAULT_MAX_BATCH,
    ) -> None:
        self._service = service
        self._executor = executor
        self._plans = PlanQueue(service.director.issue_all, executor, max_batch=max_plan_batch)

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Make a device known; the only call without a token."""
        async with _translated(context, "Register"):
            return await self._run(handlers.register, request, peer_key(context.peer()))

    async def GetMetadata(
        self, request: pb.GetMetadataRequest, context: Context
    ) -> pb.GetMetadataResponse:
        """Send one TUF metadata file."""
        async with _translated(context, "GetMetadata"):
            await self._authenticate(context)
            return await self._run(handlers.get_metadata, request)

    async def FetchChunk(
        self, request: pb.FetchChunkRequest, context: Context
    ) -> AsyncIterator[pb.FetchChunkResponse]:
        """Stream one target from an offset to its end."""
        async with _translated(context, "FetchChunk"):
            await self._authenticate(context)
            file = await self._run(handlers.find_target, request)
            offset = request.offset_bytes
            while offset < file.length_bytes:
                chunk = await self._run(handlers.read_chunk, file, offset)
                yield chunk
                offset += len(chunk.content)

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        """Send a signed plan, or nothing when the installed one is current."""
        async with _translated(context, "GetPlan"):
            device_id = await self._authenticate(context)
            asked = handlers.check_plan_request(self._service, request, device_id)
            return pb.GetPlanResponse(plan=await self._plans.ask(asked))

    async def _authenticate(self, context: Context) -> str:
        """Return who calls; known devices need no thread, which costs more than to look."""
        authorization = _authorization(context)
        device_id = handlers.recall_device(self._service, authorization)
        if device_id is None:
            device_id = await self._run(handlers.authenticate, authorization)
        return device_id

    async def _run(
        self,
        handler: Callable[Concatenate[DeliveryService, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run a handler on a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, lambda: handler(self._service, *args, **kwargs)
        )


def _authorization(context: Context) -> str:
    metadata = dict(context.invocation_metadata() or ())
    return str(metadata.get("authorization", ""))


@asynccontextmanager
async def _translated(context: Context, rpc: str) -> AsyncIterator[None]:
    """End the call with the status the catalogue gives, and log what does not go out."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001  the boundary: only the catalogue's text goes out
        status, message = describe_error(exc)
        level = logging.ERROR if status in _OUR_FAULT else logging.INFO
        if rpc == "GetMetadata" and status is grpc.StatusCode.NOT_FOUND:
            level = logging.DEBUG  # how a TUF client learns that there is no newer root
        _LOG.log(level, "%s: %s: %s", rpc, status.name, exc, exc_info=level == logging.ERROR)
        await context.abort(status, message)
