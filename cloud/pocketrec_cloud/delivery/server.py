# SPDX-License-Identifier: Apache-2.0
"""The delivery server: one process, one folder, one port.

From a shell::

    pocketrec keys init --store STORE --keys KEYS
    pocketrec bundle publish BUNDLE --store STORE --keys KEYS --sensitivity FILE
    pocketrec serve --store STORE --keys KEYS --port 0     # prints: listening on 127.0.0.1:PORT

or inside a test::

    from pocketrec_cloud.delivery.testing import serve_in_thread

    with serve_in_thread(ServerConfig(store=store, keys=keys)) as target:
        channel = grpc.insecure_channel(target)

The server needs ``KEYS/online`` only. It answers while nothing is published, sees a new
publication without a restart, keeps the TUF timestamp fresh, and on SIGTERM or SIGINT
finishes the calls in flight before it ends.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pocketrec.errors import ConfigError, PocketRecError
from pocketrec_cloud.delivery.cached_store import CachedStore
from pocketrec_cloud.delivery.director import Director, PlanPolicy
from pocketrec_cloud.delivery.handlers import DeliveryService
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.keys import KeyFolder, Role
from pocketrec_cloud.delivery.layout import StoreLayout
from pocketrec_cloud.delivery.limits import Limits
from pocketrec_cloud.delivery.models import ModelCatalogue
from pocketrec_cloud.delivery.plan_queue import DEFAULT_MAX_BATCH
from pocketrec_cloud.delivery.publication import PublicationCache
from pocketrec_cloud.delivery.rate_limit import RateLimiter
from pocketrec_cloud.delivery.repository import refresh_timestamp
from pocketrec_cloud.delivery.servicer import DeviceServicer
from pocketrec_cloud.delivery.store import SqlStore, sqlite_engine
from pocketrec_proto.v1 import device_service_pb2
from pocketrec_proto.v1.device_service_pb2_grpc import add_DeviceServiceServicer_to_server
from pocketrec_quantization.checks import check_integer

__all__ = ["DeliveryServer", "ServerConfig", "TlsFiles", "build_service", "serve"]

_LOG = logging.getLogger(__name__)
_SERVICE = device_service_pb2.DESCRIPTOR.services_by_name["DeviceService"].full_name
_WORKERS = 32  # they mostly wait for the disk
_MAX_CONCURRENT_CALLS = 256
# A request is a digest, a pseudonym and one embedding; an answer at most a chunk, or a
# metadata file, of which TUF clients take up to 5 MB.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_send_message_length", 6 * 1024 * 1024),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: the server's chain and key, and whom clients must be certified by.

    With ``client_ca`` every client has to show a certificate (mutual TLS).
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How to serve.

    Args:
        store: Folder of the repository.
        keys: Folder that holds ``online/`` with snapshot, timestamp and director keys.
        host: Name or address to listen on.
        port: TCP port; 0 takes a free one.
        tls: Certificate and key; None serves plaintext.
        is_plaintext_allowed: Whether to serve plaintext beyond this machine.
        policy: What plans are like by default.
        limits: What callers may send.
        max_plan_batch: Most requests for plans that are worked on together, when they meet.
        refresh_every_s: How often to see whether the timestamp grows old.
        grace_s: How long calls in flight may take after a signal to stop.

    Raises:
        ConfigError: Plaintext beyond this machine was not allowed explicitly, or
            ``max_plan_batch`` is below 1.
    """

    store: Path
    keys: Path
    host: str = "127.0.0.1"
    port: int = 0
    tls: TlsFiles | None = None
    is_plaintext_allowed: bool = False
    policy: PlanPolicy = field(default_factory=PlanPolicy)
    limits: Limits = field(default_factory=Limits)
    max_plan_batch: int = DEFAULT_MAX_BATCH
    refresh_every_s: float = 60.0
    grace_s: float = 10.0

    def __post_init__(self) -> None:
        check_integer(self.max_plan_batch, field="max_plan_batch", minimum=1)
        if self.tls is None and not self.is_plaintext_allowed and not _is_loopback(self.host):
            raise ConfigError(
                f"{self.host!r} can be reached from other machines and there is no certificate; "
                "pass --tls-cert and --tls-key, or --insecure if something else encrypts"
            )


class DeliveryServer:
    """One server, from start to stop; build it inside a running event loop.

    Args:
        config: How to serve.
        clock: Unix seconds.

    Raises:
        ConfigError: A key is absent.
        StoreError: The store has no repository, or its database cannot be used.
        ArtifactError: The store's metadata is damaged.
    """

    def __init__(self, config: ServerConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._store, service = build_service(config, clock)
        self._executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="pocketrec")
        self._health = health.aio.HealthServicer()
        self._refresher: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(
            options=_CHANNEL_OPTIONS, maximum_concurrent_rpcs=_MAX_CONCURRENT_CALLS
        )
        servicer = DeviceServicer(service, self._executor, max_plan_batch=config.max_plan_batch)
        add_DeviceServiceServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> str:
        """Listen, and keep the timestamp fresh from now on.

        Returns:
            What a client dials, such as "127.0.0.1:50051".

        Raises:
            ConfigError: The address cannot be listened on, or the certificate is unusable.
            OSError: A certificate file cannot be read.
        """
        try:
            port = self._listen()
        except BaseException:
            await self.stop()
            raise
        await self._refresh()
        await self._server.start()
        await self._health.set(_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        self._refresher = asyncio.create_task(self._keep_fresh())
        return _address(self._config.host, port)

    async def stop(self) -> None:
        """Report not serving, let calls in flight end, and give everything back."""
        await self._health.enter_graceful_shutdown()
        if self._refresher is not None:
            self._refresher.cancel()
        await self._server.stop(self._config.grace_s)
        self._executor.shutdown()
        self._store.close()

    def _listen(self) -> int:
        address, tls = _address(self._config.host, self._config.port), self._config.tls
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(tls))
        except RuntimeError as exc:
            raise ConfigError(
                f"cannot listen on {address!r}; is the port taken, or the certificate unusable?"
            ) from exc

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._config.refresh_every_s)
            await self._refresh()

    async def _refresh(self) -> None:
        """Sign the timestamp again if it is due; a failure is logged and tried again later."""
        store, keys, loop = self._config.store, self._config.keys, asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                self._executor, refresh_timestamp, store, keys, self._clock()
            )
        except (PocketRecError, OSError):
            _LOG.exception("the TUF timestamp stays as it is; devices refuse it once it expires")


async def serve(config: ServerConfig, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; call it on the main thread.

    Args:
        config: How to serve.
        announce: Gets the address, such as "127.0.0.1:50051", once calls are answered.

    Raises:
        ConfigError: A key or certificate is unusable, or the address is taken.
        StoreError: The store has no repository, or its database cannot be used.
        ArtifactError: The store's metadata is damaged.
    """
    server = DeliveryServer(config)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    announce(await server.start())
    await stopping.wait()
    await server.stop()


def build_service(
    config: ServerConfig, clock: Callable[[], float]
) -> tuple[SqlStore, DeliveryService]:
    """Put together what the handlers work on, after proving that store and keys are there.

    Returns:
        The database, for the caller to close, and the service on top of it.

    Raises:
        ConfigError: A key is absent.
        StoreError: The store has no repository, or its database cannot be used.
        ArtifactError: The store's metadata is damaged.
    """
    layout, keys = StoreLayout(config.store), KeyFolder(config.keys)
    publication = PublicationCache(layout)
    publication.current()
    for role in (Role.SNAPSHOT, Role.TIMESTAMP):
        keys.load(role)
    key = keys.load(Role.DIRECTOR)
    store = CachedStore(sqlite_engine(layout.database), timestamp=layout.timestamp)
    models = ModelCatalogue(layout, store)
    return store, DeliveryService(
        layout=layout,
        publication=publication,
        store=store,
        director=Director(models=models, store=store, key=key, clock=clock, policy=config.policy),
        limits=config.limits,
        identity=IdentityService.of(
            store,
            key,
            recall_session=store.recall_session,
            limits=config.limits,
            clock=clock,
        ),
        plans=RateLimiter(config.limits.plans_per_minute, time.monotonic),
        clock=clock,
    )


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=None if tls.client_ca is None else tls.client_ca.read_bytes(),
        require_client_auth=tls.client_ca is not None,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
