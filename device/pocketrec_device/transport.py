# SPDX-License-Identifier: Apache-2.0
"""The gRPC client: the one place where the device meets the network.

Every call has a deadline. Every gRPC status becomes one of our ``ServiceError`` classes.
Unary calls that change nothing are repeated by gRPC itself, with jittered backoff, when
the server cannot be reached.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc

from pocketrec.errors import (
    ConfigError,
    DeadlineError,
    IntegrityError,
    RejectedError,
    ServiceError,
    ServiceUnavailableError,
)
from pocketrec.registration import device_id_of, registration_message
from pocketrec_device.latency_counter import LATENCY_BOUNDS_US
from pocketrec_device.plan_feed import FeedEvent, events_of
from pocketrec_proto.v1 import device_service_pb2 as messages
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

if TYPE_CHECKING:
    from pocketrec.signing import SigningKey
    from pocketrec_device.extraction import CodedEmbedding
    from pocketrec_device.reporting import StatusReport
    from pocketrec_device.tls import Tls

__all__ = [
    "STATUS_ERRORS",
    "PlanRequest",
    "Registration",
    "ServiceClient",
    "is_plain_text",
    "service_error",
]

STATUS_ERRORS: Mapping[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.CANCELLED: ServiceUnavailableError,
    grpc.StatusCode.UNKNOWN: ServiceUnavailableError,
    grpc.StatusCode.INVALID_ARGUMENT: RejectedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.NOT_FOUND: RejectedError,
    grpc.StatusCode.ALREADY_EXISTS: RejectedError,
    grpc.StatusCode.PERMISSION_DENIED: RejectedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServiceUnavailableError,
    grpc.StatusCode.FAILED_PRECONDITION: RejectedError,
    grpc.StatusCode.ABORTED: ServiceUnavailableError,
    grpc.StatusCode.OUT_OF_RANGE: RejectedError,
    grpc.StatusCode.UNIMPLEMENTED: RejectedError,
    grpc.StatusCode.INTERNAL: ServiceUnavailableError,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailableError,
    grpc.StatusCode.DATA_LOSS: ServiceUnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: RejectedError,
}

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_MAX_MESSAGE_BYTES = 6 * 2**20  # the largest TUF metadata file is 5 MB
_SERVICE = "pocketrec.v1.DeviceService"
_NO_ROLLOUTS = ("UNIMPLEMENTED", "NOT_FOUND")
_RETRIES = {
    "methodConfig": [
        {
            "name": [
                {"service": _SERVICE, "method": "GetChallenge"},
                {"service": _SERVICE, "method": "GetMetadata"},
                {"service": _SERVICE, "method": "GetPlan"},
                {"service": _SERVICE, "method": "GetTargets"},
            ],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """How a server knows this device from now on.

    Args:
        device_id: The name that follows from its key.
        token: What authenticates later calls. A secret.
        lifetime_s: Seconds from the registration until the token ends.
    """

    device_id: str
    token: str = field(repr=False)
    lifetime_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What ``get_plan`` asks for; field by field as in ``GetPlanRequest``.

    Args:
        model_digest: 32 bytes.
        bundle_digest: 32 bytes.
        subject: Pseudonym the app chose; empty = everybody.
        average_bits: Average bits per coded weight; 0 = the server's default.
        installed_version: The highest plan version accepted; 0 = none.
        user_embedding: What is known about the user; None = nothing.
    """

    model_digest: bytes
    bundle_digest: bytes
    subject: str
    average_bits: float
    installed_version: int
    user_embedding: CodedEmbedding | None = None


class ServiceClient:
    """A connection to one delivery server; close it, or use it in ``with``.

    Args:
        target: ``"host:port"``.
        tls: How to encrypt; None = TLS with the system's roots, or plain text when the
            host is this machine.
        deadline_s: Seconds each call may take; for a stream, seconds without progress.

    Raises:
        ConfigError: ``target`` or ``deadline_s`` cannot be used.
    """

    def __init__(self, target: str, *, tls: Tls | None, deadline_s: float) -> None:
        if not deadline_s > 0:
            raise ConfigError(f"deadline_s: expected more than 0 seconds, got {deadline_s}")
        self.target = target
        self._deadline_s = deadline_s
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._channel = _open_channel(target, tls)
        self._stub = DeviceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; calls under way fail."""
        self._channel.close()

    def authenticate(self, token: str) -> None:
        """Send ``token`` with every later call."""
        self._metadata = (("authorization", f"Bearer {token}"),)

    def register(self, profile: messages.DeviceProfile, key: SigningKey) -> Registration:
        """Make the device known to the server: it asks for a challenge, and signs it.

        Args:
            profile: What to tell of the device.
            key: Who it is; only signatures and the public half leave the device.

        Raises:
            ServiceError: A call failed; code ``PERMISSION_DENIED`` when it was revoked.
        """
        public_key = key.public.raw
        wish = messages.GetChallengeRequest(public_key=public_key)
        with self._translated("GetChallenge"):
            challenge = self._stub.GetChallenge(wish, timeout=self._deadline_s).challenge
        request = messages.RegisterRequest(
            profile=profile,
            public_key=public_key,
            challenge=challenge,
            signature=key.sign(registration_message(public_key, challenge)),
        )
        with self._translated("Register"):
            response = self._stub.Register(request, timeout=self._deadline_s)
        return Registration(
            device_id=device_id_of(public_key),
            token=response.token,
            lifetime_s=response.lifetime_s,
        )

    def get_metadata(self, filename: str) -> bytes:
        """Return one TUF metadata file, unverified.

        Raises:
            ServiceError: The call failed; code ``NOT_FOUND`` when there is no such file.
        """
        request = messages.GetMetadataRequest(filename=filename)
        with self._translated("GetMetadata"):
            response = self._stub.GetMetadata(
                request, timeout=self._deadline_s, metadata=self._metadata
            )
        return bytes(response.content)

    def fetch(self, target_path: str, offset_bytes: int) -> Iterator[bytes]:
        """Yield the bytes of a target from an offset on, unverified, chunk by chunk.

        When a stream outlives its deadline but did make progress, the next one goes on
        where it ended: a large file may take as long as it needs.

        Raises:
            DeadlineError: A whole deadline passed without a byte.
            ServiceError: The call failed.
            IntegrityError: A chunk does not continue where the last one ended.
        """
        while True:
            start = offset_bytes
            try:
                for chunk in self._fetch_once(target_path, offset_bytes):
                    offset_bytes += len(chunk)
                    yield chunk
            except DeadlineError:
                if offset_bytes == start:
                    raise
            else:
                return

    def get_plan(self, request: PlanRequest) -> bytes:
        """Return a plan container, unverified; empty when the installed plan is current.

        Raises:
            ServiceError: The call failed.
        """
        message = _plan_message(request)
        with self._translated("GetPlan"):
            response = self._stub.GetPlan(
                message, timeout=self._deadline_s, metadata=self._metadata
            )
        return bytes(response.plan)

    def watch_plans(
        self, request: PlanRequest, *, model_name: str, last_sequence: int, silence_s: float
    ) -> Iterator[FeedEvent]:
        """Yield plans, unverified, and news as they come; ``close`` ends it.

        Args:
            request: What ``get_plan`` would be asked for.
            model_name: Model line whose bundles matter.
            last_sequence: The newest order that was acted upon; 0 = none.
            silence_s: How long the server may say nothing.

        Raises:
            ServiceError: The call failed, or the server fell silent.
        """
        message = messages.WatchPlansRequest(
            plan=_plan_message(request), model_name=model_name, last_sequence=last_sequence
        )
        with self._translated("WatchPlans"):
            stream = self._stub.WatchPlans(message, metadata=self._metadata)
            yield from events_of(stream, silence_s=silence_s)

    def get_targets(self, model_name: str, bundle_digest: bytes) -> bytes:
        """Return an assignment container, unverified; empty when the current bundle is due.

        Args:
            model_name: The model line.
            bundle_digest: 32 bytes, of the bundle that runs; empty = none.

        Raises:
            RejectedError: The server refused, and knows the call.
            ServiceError: The call failed.
        """
        request = messages.GetTargetsRequest(model_name=model_name, bundle_digest=bundle_digest)
        try:
            with self._translated("GetTargets"):
                response = self._stub.GetTargets(
                    request, timeout=self._deadline_s, metadata=self._metadata
                )
        except RejectedError as exc:
            if exc.code in _NO_ROLLOUTS:
                return b""
            raise
        return bytes(response.assignment)

    def report_status(self, report: StatusReport) -> None:
        """Tell the server what runs, and how an update went.

        Raises:
            ServiceError: The call failed.
        """
        message = messages.ReportStatusRequest(
            model_name=report.model_name,
            bundle_digest=bytes.fromhex(report.bundle),
            attempted_bundle_digest=bytes.fromhex(report.attempted),
            plan_version=report.plan_version,
            outcome=messages.UpdateOutcome.Value(f"UPDATE_OUTCOME_{report.outcome}"),
            error=report.error,
        )
        if report.latency_counts:
            message.rerank_latency.bounds_us.extend(LATENCY_BOUNDS_US)
            message.rerank_latency.counts.extend(report.latency_counts)
        with self._translated("ReportStatus"):
            self._stub.ReportStatus(message, timeout=self._deadline_s, metadata=self._metadata)

    def _fetch_once(self, target_path: str, offset_bytes: int) -> Iterator[bytes]:
        request = messages.FetchChunkRequest(target_path=target_path, offset_bytes=offset_bytes)
        stream = self._stub.FetchChunk(request, timeout=self._deadline_s, metadata=self._metadata)
        try:
            with self._translated("FetchChunk"):
                for chunk in stream:
                    if chunk.offset_bytes != offset_bytes:
                        raise IntegrityError(
                            f"{target_path}: expected the chunk at byte {offset_bytes}, "
                            f"got the one at byte {chunk.offset_bytes}; sync again"
                        )
                    offset_bytes += len(chunk.content)
                    yield chunk.content
        finally:
            stream.cancel()

    @contextmanager
    def _translated(self, method: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as exc:
            raise service_error(exc, f"{method} at {self.target}") from exc


def _plan_message(request: PlanRequest) -> messages.GetPlanRequest:
    return messages.GetPlanRequest(
        model_digest=request.model_digest,
        bundle_digest=request.bundle_digest,
        subject=request.subject,
        average_bits=request.average_bits,
        installed_version=request.installed_version,
        user_embedding=_embedding_message(request.user_embedding),
    )


def _embedding_message(embedding: CodedEmbedding | None) -> messages.UserEmbedding | None:
    if embedding is None:
        return None
    return messages.UserEmbedding(codes=embedding.codes, scale=embedding.scale)


def service_error(exc: grpc.RpcError, call: str) -> ServiceError:
    """Return our error for a failed call; ``call`` is its description for the message."""
    # What a stub raises is a grpc.Call as well, which no type says.
    status: Any = exc
    code = status.code()
    ours = STATUS_ERRORS.get(code, ServiceUnavailableError)
    hint = "; is the server up, and within reach?" if code is grpc.StatusCode.UNAVAILABLE else ""
    hint += _request_hint(status.trailing_metadata())
    return ours(f"{call} failed with {code.name}: {status.details()}{hint}", code=code.name)


def _request_hint(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return what finds the call in the server's log, if the server named it."""
    request_id = dict(metadata or ()).get("x-request-id")
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        return ""
    return f" (request {request_id})"


def is_plain_text(target: str, tls: Tls | None) -> bool:
    """Whether a connection is not encrypted: when asked for, or on this machine by default.

    Args:
        target: ``"host:port"``.
        tls: What the app chose, if it chose.
    """
    return _is_this_machine(_host(target)) if tls is None else not tls.enabled


def _open_channel(target: str, tls: Tls | None) -> grpc.Channel:
    _host(target)  # refuses what is no address
    options = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps(_RETRIES)),
    ]
    if is_plain_text(target, tls):
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=None if tls is None else tls.root_certificates,
        private_key=None if tls is None else tls.private_key,
        certificate_chain=None if tls is None else tls.certificate_chain,
    )
    return grpc.secure_channel(target, credentials, options)


def _host(target: str) -> str:
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"target: expected 'host:port', got {target!r}")
    return host


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
