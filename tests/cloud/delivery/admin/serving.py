# SPDX-License-Identifier: Apache-2.0
"""A real admin service on a loopback socket, on a store in memory, and certificates for it."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pocketrec_cloud.delivery.admin.authentication import AdminAuthenticator
from pocketrec_cloud.delivery.admin.certificates import AdminCertificates
from pocketrec_cloud.delivery.admin.service import AdminService
from pocketrec_cloud.delivery.admin.servicer import AdminServicer
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_proto.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server

__all__ = ["Authority", "Identity", "serve_admins"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_pem_x509_certificate(self.certificate)


class Authority:
    """Signs certificates for servers on this machine, and for their clients."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        ca = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder(self._name, self._key.public_key()).add_extension(ca, critical=True)
        self.certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def certify(self, *common_names: str) -> Identity:
        """Return a certificate for a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in common_names]
        hosts = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = self._builder(x509.Name(attributes), key.public_key())
        certificate = builder.add_extension(hosts, critical=False).sign(self._key, hashes.SHA256())
        return Identity(
            certificate=certificate.public_bytes(Encoding.PEM),
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )


@contextmanager
def serve_admins(
    service: AdminService,
    *,
    certificates: AdminCertificates | None = None,
    failures: RateLimiter | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[str]:
    """Serve while the block runs; yields what a client dials."""
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        with ThreadPoolExecutor(4) as executor:
            authenticator = AdminAuthenticator(
                service.store,
                certificates=certificates or AdminCertificates(),
                executor=executor,
                clock=service.clock,
                failures=failures,
            )
            server = grpc.aio.server()
            servicer = AdminServicer(service, authenticator, executor)
            add_AdminServiceServicer_to_server(servicer, server)
            if credentials is None:
                port = server.add_insecure_port("127.0.0.1:0")
            else:
                port = server.add_secure_port("127.0.0.1:0", credentials)
            await server.start()
            loop, stopping = asyncio.get_running_loop(), asyncio.Event()
            stop = stopping.set
            started.set_result((f"127.0.0.1:{port}", lambda: loop.call_soon_threadsafe(stop)))
            await stopping.wait()
            await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    target, stop = started.result(timeout=30)
    try:
        yield target
    finally:
        stop()
        thread.join()
