# SPDX-License-Identifier: Apache-2.0
"""The admin's gRPC client: opens the channel, says who calls, and turns statuses into our errors.

::

    with AdminClient(AdminEndpoint(target="cloud.example:50052", token=token)) as client:
        response = client.call(client.stub.ListPushes, ListPushesRequest())
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import grpc

from pocketrec.errors import (
    ConfigError,
    DeadlineError,
    RejectedError,
    ServiceError,
    ServiceUnavailableError,
)
from pocketrec_proto.v1.admin_service_pb2_grpc import AdminServiceStub

__all__ = ["AdminClient", "AdminEndpoint", "AdminTls", "service_error"]

Q = TypeVar("Q")
R = TypeVar("R")

_MAX_MESSAGE_BYTES = 6 * 2**20  # the largest TUF metadata file is 5 MB
_RETRYABLE: Mapping[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.ABORTED: ServiceUnavailableError,
    grpc.StatusCode.CANCELLED: ServiceUnavailableError,
    grpc.StatusCode.DATA_LOSS: ServiceUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.INTERNAL: ServiceUnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServiceUnavailableError,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailableError,
    grpc.StatusCode.UNKNOWN: ServiceUnavailableError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminTls:
    """Certificates of the connection; the defaults suit a server with a public certificate.

    Args:
        root_certificates: PEM of the authorities to trust; None = the system's.
        private_key: PEM of the admin's key, when a certificate says who calls.
        certificate_chain: PEM that belongs to ``private_key``.

    Raises:
        ConfigError: Only one of key and chain is given.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    certificate_chain: bytes | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ConfigError("private_key and certificate_chain belong together; pass both")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEndpoint:
    """Where an admin service listens, and what says who calls.

    Args:
        target: ``"host:port"``.
        token: The admin's token; empty when a certificate says who calls. A secret.
        tls: Certificates; None = those of the system.
        is_plaintext: Whether not to encrypt; None = only towards this machine, and only
            without ``tls``.

    Raises:
        ConfigError: ``target`` is no address, or certificates come with plain text.
    """

    target: str
    token: str = field(default="", repr=False)
    tls: AdminTls | None = None
    is_plaintext: bool | None = None

    def __post_init__(self) -> None:
        host, _, port = self.target.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"server: expected 'HOST:PORT', got {self.target!r}")
        if self.is_plaintext and self.tls is not None:
            raise ConfigError("certificates were given, but also plain text; drop one of them")

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is encrypted."""
        if self.is_plaintext is not None:
            return not self.is_plaintext
        return self.tls is not None or not _is_this_machine(self.target.rpartition(":")[0])


class AdminClient:
    """A connection to one admin service; close it, or use it in ``with``.

    Args:
        endpoint: Where, and who calls.
        deadline_s: Seconds that a call may take.

    Raises:
        ConfigError: ``deadline_s`` is not above 0.
    """

    def __init__(self, endpoint: AdminEndpoint, *, deadline_s: float = 30.0) -> None:
        if not deadline_s > 0:
            raise ConfigError(f"deadline_s: expected more than 0 seconds, got {deadline_s}")
        self._target = endpoint.target
        self._deadline_s = deadline_s
        self._metadata = (("authorization", f"Bearer {endpoint.token}"),) if endpoint.token else ()
        self._channel = _open_channel(endpoint)
        self.stub = AdminServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; calls under way fail."""
        self._channel.close()

    def call(self, method: grpc.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        """Make one call.

        Args:
            method: One of ``stub``.
            request: What to send.

        Raises:
            ServiceError: It failed; ``code`` says with which status.
        """
        with self._translated():
            return method(request, timeout=self._deadline_s, metadata=self._metadata)

    def send(
        self,
        method: grpc.StreamUnaryMultiCallable[Q, R],
        requests: Iterable[Q],
        *,
        deadline_s: float,
    ) -> R:
        """Make one call of many messages.

        Args:
            method: One of ``stub``.
            requests: What to send, in order.
            deadline_s: Seconds that the whole call may take.

        Raises:
            ServiceError: It failed; ``code`` says with which status.
        """
        with self._translated():
            return method(iter(requests), timeout=deadline_s, metadata=self._metadata)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as exc:
            raise service_error(exc, self._target) from exc


def service_error(exc: grpc.RpcError, target: str) -> ServiceError:
    """Return our error for a call that failed at an address."""
    # What a stub raises is a grpc.Call as well, which no type says.
    status: Any = exc
    code = status.code()
    ours = _RETRYABLE.get(code, RejectedError)
    hint = "; is the server up, and within reach?" if code is grpc.StatusCode.UNAVAILABLE else ""
    return ours(f"{target} answered {code.name}: {status.details()}{hint}", code=code.name)


def _open_channel(endpoint: AdminEndpoint) -> grpc.Channel:
    options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
    if not endpoint.is_encrypted:
        return grpc.insecure_channel(endpoint.target, options)
    tls = endpoint.tls or AdminTls()
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.root_certificates,
        private_key=tls.private_key,
        certificate_chain=tls.certificate_chain,
    )
    return grpc.secure_channel(endpoint.target, credentials, options)


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
