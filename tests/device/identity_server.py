# SPDX-License-Identifier: Apache-2.0
"""A server that knows devices and nothing else: real sockets, real keys, a clock to move."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from pocketrec.errors import RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.identity.registration import get_challenge, register
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.identity.sessions import admit, find_session
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_proto.v1 import device_service_pb2 as pb

__all__ = ["IdentityServer"]


class IdentityServer:
    """Registers devices, and tells each its id as metadata; runs while a ``with`` block does.

    Attributes:
        now_s: The server's clock.
        store: What it remembers.
        target: What a device dials.
        registrations: Every registration that came, as it came.
    """

    def __init__(self, *, lifetime_s: int = 3600) -> None:
        self.now_s = 1_800_000_000.0
        self.store = MemoryStore()
        self.registrations: list[pb.RegisterRequest] = []
        self._identity = IdentityService.of(
            self.store,
            SigningKey.generate(),
            recall_session=lambda _: None,
            limits=Limits(token_lifetime_s=lifetime_s),
            clock=lambda: self.now_s,
        )
        self._server = grpc.server(ThreadPoolExecutor(2))
        answers: dict[str, tuple[Any, type[Message]]] = {
            "GetChallenge": (self._get_challenge, pb.GetChallengeRequest),
            "Register": (self._register, pb.RegisterRequest),
            "GetMetadata": (self._get_metadata, pb.GetMetadataRequest),
        }
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                answer, request.FromString, lambda response: response.SerializeToString()
            )
            for name, (answer, request) in answers.items()
        }
        handler = grpc.method_handlers_generic_handler("pocketrec.v1.DeviceService", methods)
        self._server.add_generic_rpc_handlers((handler,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._server.stop(None).wait()

    def _get_challenge(
        self, request: pb.GetChallengeRequest, context: grpc.ServicerContext
    ) -> pb.GetChallengeResponse:
        """Give something to sign."""
        return get_challenge(self._identity, request, "peer")

    def _register(
        self, request: pb.RegisterRequest, context: grpc.ServicerContext
    ) -> pb.RegisterResponse:
        """Make a device known."""
        self.registrations.append(request)
        try:
            return register(self._identity, request, "peer")
        except RejectedError as exc:
            context.abort(grpc.StatusCode[exc.code], str(exc))

    def _get_metadata(
        self, request: pb.GetMetadataRequest, context: grpc.ServicerContext
    ) -> pb.GetMetadataResponse:
        """Tell a device who it is."""
        metadata = dict(context.invocation_metadata())
        try:
            session = find_session(self._identity, str(metadata.get("authorization", "")))
            admit(self._identity, session)
        except RejectedError as exc:
            context.abort(grpc.StatusCode[exc.code], str(exc))
        return pb.GetMetadataResponse(content=session.device_id.encode())
