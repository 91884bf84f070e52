# SPDX-License-Identifier: Apache-2.0
"""A gRPC server that passes every call on to a real one, and may meddle with the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from pocketrec_proto.v1 import device_service_pb2 as pb

__all__ = ["ManInTheMiddle"]

_ANSWERS: dict[str, type[Message]] = {
    "GetChallenge": pb.GetChallengeResponse,
    "Register": pb.RegisterResponse,
    "GetMetadata": pb.GetMetadataResponse,
    "FetchChunk": pb.FetchChunkResponse,
    "GetTargets": pb.GetTargetsResponse,
    "GetPlan": pb.GetPlanResponse,
    "ReportStatus": pb.ReportStatusResponse,
    "WatchPlans": pb.WatchPlansResponse,
}
_REQUESTS: dict[str, type[Message]] = {
    "GetChallenge": pb.GetChallengeRequest,
    "Register": pb.RegisterRequest,
    "GetMetadata": pb.GetMetadataRequest,
    "FetchChunk": pb.FetchChunkRequest,
    "GetTargets": pb.GetTargetsRequest,
    "GetPlan": pb.GetPlanRequest,
    "ReportStatus": pb.ReportStatusRequest,
    "WatchPlans": pb.WatchPlansRequest,
}


class ManInTheMiddle(grpc.GenericRpcHandler):
    """Stands between a device and ``upstream`` while a ``with`` block runs.

    Attributes:
        upstream: The real server's address; may change between calls.
        target: What the device dials.
        calls: Every request seen, as (method, message).
        meddle: Method name to a function (request, answer) that may change the answer in
            place, or raise ``TimeoutError`` to end the call as if its deadline had passed.
        reorder: Method name to what makes another stream of a stream of answers.
        unknown: Methods that it says are not implemented.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.calls: list[tuple[str, Any]] = []
        self.meddle: dict[str, Callable[[Any, Any], None]] = {}
        self.reorder: dict[str, Callable[[Iterator[Any]], Iterator[Any]]] = {}
        self.unknown: set[str] = set()
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._server.stop(None).wait()

    def requests(self, method: str) -> list[Any]:
        """Return the requests of one method, oldest first."""
        return [request for name, request in self.calls if name == method]

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Pass on whatever is called; everything is a stream from here."""
        path = handler_call_details.method

        def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from self._pass_on(path, request, context)

        if path.endswith(("FetchChunk", "WatchPlans")):
            return grpc.unary_stream_rpc_method_handler(answer)
        return grpc.unary_unary_rpc_method_handler(lambda *call: next(answer(*call)))

    def _pass_on(self, path: str, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        method = path.rpartition("/")[2]
        message = _REQUESTS[method].FromString(request)
        self.calls.append((method, message))
        if method in self.unknown:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        metadata = [entry for entry in context.invocation_metadata() if entry[0] == "authorization"]
        with grpc.insecure_channel(self.upstream) as channel:
            try:
                stream: Iterator[bytes] = channel.unary_stream(path)(
                    request, metadata=metadata, timeout=20
                )
                answers: Iterator[Any] = map(_ANSWERS[method].FromString, stream)
                for answer in self.reorder.get(method, iter)(answers):
                    if method in self.meddle:
                        self.meddle[method](message, answer)
                    yield answer.SerializeToString()
            except grpc.RpcError as exc:
                context.abort(exc.code(), exc.details())
            except TimeoutError:
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
