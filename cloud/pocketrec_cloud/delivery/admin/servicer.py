# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the names of calls come from the .proto
"""``AdminService`` behind gRPC: who calls, may they, run the handler, translate errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeAlias, TypeVar

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.admin import rollouts
from pocketrec_cloud.delivery.admin.audit import list_audit_log
from pocketrec_cloud.delivery.admin.devices import list_devices, revoke_device
from pocketrec_cloud.delivery.admin.publishing import get_publication, publish_bundle, receive
from pocketrec_cloud.delivery.admin.pushes import cancel_push, list_pushes, push_plan
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService
from pocketrec_cloud.delivery.boundary.translation import Context, translated
from pocketrec_cloud.delivery.publishing.inbox import open_inbox
from pocketrec_cloud.delivery.records import AdminRole
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_proto.v1.admin_service_pb2_grpc import AdminServiceServicer

__all__ = ["AdminServicer", "Authenticator"]

P = ParamSpec("P")
Q = TypeVar("Q")
R = TypeVar("R")
Authenticator: TypeAlias = Callable[[Context], Awaitable[AdminIdentity]]
"""Returns who makes a call; raises ``RejectedError`` when nobody is known to."""


class AdminServicer(AdminServiceServicer):
    """Answers admins.

    Args:
        service: What the handlers work on.
        authenticate: Says who makes a call.
        executor: Runs the handlers, which read disks and wait for databases.
    """

    def __init__(
        self, service: AdminService, authenticate: Authenticator, executor: Executor
    ) -> None:
        self._service = service
        self._authenticate = authenticate
        self._executor = executor

    async def GetPublication(
        self, request: pb.GetPublicationRequest, context: Context
    ) -> pb.GetPublicationResponse:
        """Return what a publisher signs on top of."""
        return await self._call(get_publication, request, context, role=AdminRole.VIEWER)

    async def PublishBundle(
        self, request_iterator: AsyncIterator[pb.PublishBundleRequest], context: Context
    ) -> pb.PublishBundleResponse:
        """Collect files and the order, and carry it out; files go when the call ends."""
        async with translated(context, "PublishBundle"):
            admin = await self._admit(context, AdminRole.PUBLISHER)
            with open_inbox(self._service.publishing.max_bytes) as inbox:
                order = None
                async for message in request_iterator:
                    if order is not None:
                        raise RejectedError("the order comes last", code="INVALID_ARGUMENT")
                    order = await self._run(receive, inbox, message)
                if order is None:
                    raise RejectedError("expected an order", code="INVALID_ARGUMENT")
                return await self._run(publish_bundle, self._service, (inbox, order), admin)

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: Context
    ) -> pb.ListDevicesResponse:
        """List devices of a cohort."""
        return await self._call(list_devices, request, context, role=AdminRole.VIEWER)

    async def RevokeDevice(
        self, request: pb.RevokeDeviceRequest, context: Context
    ) -> pb.RevokeDeviceResponse:
        """End a device's token for good."""
        return await self._call(revoke_device, request, context, role=AdminRole.OPERATOR)

    async def ListAuditLog(
        self, request: pb.ListAuditLogRequest, context: Context
    ) -> pb.ListAuditLogResponse:
        """List what was done."""
        return await self._call(list_audit_log, request, context, role=AdminRole.VIEWER)

    async def PushPlan(self, request: pb.PushPlanRequest, context: Context) -> pb.PushPlanResponse:
        """Let plans of an audience be like this from now on."""
        return await self._call(push_plan, request, context, role=AdminRole.OPERATOR)

    async def CancelPush(
        self, request: pb.CancelPushRequest, context: Context
    ) -> pb.CancelPushResponse:
        """Take a push back."""
        return await self._call(cancel_push, request, context, role=AdminRole.OPERATOR)

    async def ListPushes(
        self, request: pb.ListPushesRequest, context: Context
    ) -> pb.ListPushesResponse:
        """List the pushes that hold."""
        return await self._call(list_pushes, request, context, role=AdminRole.VIEWER)

    async def StartRollout(self, request: pb.StartRolloutRequest, context: Context) -> pb.Rollout:
        """Let the first stage of a rollout begin."""
        handler = rollouts.start_rollout
        return await self._call(handler, request, context, role=AdminRole.OPERATOR)

    async def PauseRollout(self, request: pb.ChangeRolloutRequest, context: Context) -> pb.Rollout:
        """Let a rollout neither go on nor stop."""
        handler = rollouts.pause_rollout
        return await self._call(handler, request, context, role=AdminRole.OPERATOR)

    async def ResumeRollout(self, request: pb.ChangeRolloutRequest, context: Context) -> pb.Rollout:
        """Let a paused rollout go on."""
        handler = rollouts.resume_rollout
        return await self._call(handler, request, context, role=AdminRole.OPERATOR)

    async def AbortRollout(self, request: pb.ChangeRolloutRequest, context: Context) -> pb.Rollout:
        """Take a rollout back from every device."""
        handler = rollouts.abort_rollout
        return await self._call(handler, request, context, role=AdminRole.OPERATOR)

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Context) -> pb.Rollout:
        """Return one rollout."""
        handler = rollouts.get_rollout
        return await self._call(handler, request, context, role=AdminRole.VIEWER)

    async def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: Context
    ) -> pb.ListRolloutsResponse:
        """Return rollouts, the oldest first."""
        handler = rollouts.list_rollouts
        return await self._call(handler, request, context, role=AdminRole.VIEWER)

    async def _call(
        self,
        handler: Callable[[AdminService, Q, AdminIdentity], R],
        request: Q,
        context: Context,
        *,
        role: AdminRole,
    ) -> R:
        """Answer one call, if whoever makes it has the role."""
        async with translated(context, handler.__name__):
            admin = await self._admit(context, role)
            return await self._run(handler, self._service, request, admin)

    async def _admit(self, context: Context, role: AdminRole) -> AdminIdentity:
        """Return who calls, if they have the role."""
        admin = await self._authenticate(context)
        _require(admin, role)
        return admin

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do what may wait on a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(work, *args, **kwargs))


def _require(admin: AdminIdentity, role: AdminRole) -> None:
    if not admin.role.may_act_as(role):
        raise RejectedError(
            f"this call takes the role {role}; {admin.name!r} is a {admin.role}",
            code="PERMISSION_DENIED",
        )
