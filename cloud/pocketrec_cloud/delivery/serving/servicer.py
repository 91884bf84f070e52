# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the names of calls come from the .proto
"""``DeviceService`` behind gRPC: authenticate, run the handler off the loop, translate errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Concatenate, ParamSpec, TypeVar

from pocketrec_cloud.delivery.boundary.rate_limit import peer_key
from pocketrec_cloud.delivery.boundary.translation import Context, translated
from pocketrec_cloud.delivery.identity.registration import get_challenge, register
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.identity.sessions import (
    admit,
    bearer_sha256,
    find_session,
    recall_session,
)
from pocketrec_cloud.delivery.plans.queue import DEFAULT_MAX_BATCH, PlanQueue
from pocketrec_cloud.delivery.plans.requests import check_watch_request
from pocketrec_cloud.delivery.push.slow_readers import broken_off_after
from pocketrec_cloud.delivery.push.watch import PlanStream, WatchParts
from pocketrec_cloud.delivery.records import DeviceSession
from pocketrec_cloud.delivery.rollouts import calls as rollout_calls
from pocketrec_cloud.delivery.serving import handlers
from pocketrec_cloud.delivery.serving.handlers import DeliveryService
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceServicer

__all__ = ["DeviceServicer"]

P = ParamSpec("P")
R = TypeVar("R")


class DeviceServicer(DeviceServiceServicer):
    """Answers devices.

    Args:
        service: What the handlers work on.
        executor: Runs the handlers, which read disks and compute.
        watch: What streams share.
        max_plan_batch: Most requests for plans that are worked on together.

    Raises:
        ConfigError: ``max_plan_batch`` is below 1.
    """

    def __init__(
        self,
        service: DeliveryService,
        executor: Executor,
        watch: WatchParts,
        *,
        max_plan_batch: int = DEFAULT_MAX_BATCH,
    ) -> None:
        self._service = service
        self._executor = executor
        self._watch = watch
        self._plans = PlanQueue(service.director.issue_all, executor, max_batch=max_plan_batch)

    async def GetChallenge(
        self, request: pb.GetChallengeRequest, context: Context
    ) -> pb.GetChallengeResponse:
        """Give a device something to sign; needs no token, and no thread either."""
        async with translated(context, "GetChallenge"):
            return get_challenge(self._service.identity, request, peer_key(context.peer()))

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Make a device known; needs no token."""
        async with translated(context, "Register"):
            caller = peer_key(context.peer())
            return await self._run_identity(register, request, caller)

    async def GetMetadata(
        self, request: pb.GetMetadataRequest, context: Context
    ) -> pb.GetMetadataResponse:
        """Send one TUF metadata file."""
        async with translated(context, "GetMetadata"):
            await self._authenticate(context)
            return await self._run(handlers.get_metadata, request)

    async def FetchChunk(
        self, request: pb.FetchChunkRequest, context: Context
    ) -> AsyncIterator[pb.FetchChunkResponse]:
        """Stream one target from an offset to its end."""
        async with translated(context, "FetchChunk"):
            await self._authenticate(context)
            file = await self._run(handlers.find_target, request)
            offset = request.offset_bytes
            while offset < file.length_bytes:
                chunk = await self._run(handlers.read_chunk, file, offset)
                yield chunk
                offset += len(chunk.content)

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        """Send a signed plan, or nothing when the installed one is current."""
        async with translated(context, "GetPlan"):
            session = await self._authenticate(context)
            asked = handlers.check_plan_request(self._service, request, session.device_id)
            return pb.GetPlanResponse(plan=await self._plans.ask(asked))

    async def WatchPlans(
        self, request: pb.WatchPlansRequest, context: Context
    ) -> AsyncIterator[pb.WatchPlansResponse]:
        """Send plans and news as they come."""
        async with translated(context, "WatchPlans"):
            session = await self._authenticate(context)
            asked = handlers.check_plan_request(self._service, request.plan, session.device_id)
            check_watch_request(request)
            device = await self._run(lambda service: service.store.find_device(session.device_id))
            stream = PlanStream(
                self._watch,
                asked,
                session=session,
                device=device,
                follows_targets=bool(request.model_name),
                token_sha256=bearer_sha256(_authorization(context)) or b"",
            )
            write_timeout_s = self._watch.hub.settings.write_timeout_s
            async with aclosing(stream.messages(request.last_sequence)) as messages:
                async for message in messages:
                    with broken_off_after(write_timeout_s):
                        yield message

    async def GetTargets(
        self, request: pb.GetTargetsRequest, context: Context
    ) -> pb.GetTargetsResponse:
        """Send a signed assignment, or nothing when the current bundle is due."""
        async with translated(context, "GetTargets"):
            device_id = (await self._authenticate(context)).device_id

            def answer(service: DeliveryService) -> pb.GetTargetsResponse:
                return rollout_calls.get_targets(service.rollouts, request, device_id)

            return await self._run(answer)

    async def ReportStatus(
        self, request: pb.ReportStatusRequest, context: Context
    ) -> pb.ReportStatusResponse:
        """Take in what runs on a device, and how an update went."""
        async with translated(context, "ReportStatus"):
            device_id = (await self._authenticate(context)).device_id

            def answer(service: DeliveryService) -> pb.ReportStatusResponse:
                return rollout_calls.report_status(service.rollouts, request, device_id)

            return await self._run(answer)

    async def _authenticate(self, context: Context) -> DeviceSession:
        """Return who calls; known devices need no thread, which costs more than to look."""
        authorization = _authorization(context)
        identity = self._service.identity
        session = recall_session(identity, authorization)
        if session is None:
            session = await self._run_identity(find_session, authorization)
        return admit(identity, session)

    async def _run_identity(
        self,
        handler: Callable[Concatenate[IdentityService, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run a handler that knows identities only on a worker thread."""
        return await self._run(lambda service: handler(service.identity, *args, **kwargs))

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
