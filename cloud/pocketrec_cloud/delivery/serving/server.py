# SPDX-License-Identifier: Apache-2.0
"""The delivery server: one store, two ports, and as many processes as it takes.

From a shell::

    pocketrec keys init --store STORE --keys KEYS
    pocketrec bundle publish BUNDLE --store STORE --keys KEYS --sensitivity FILE
    pocketrec serve --store STORE --keys KEYS --port 0     # prints: listening on 127.0.0.1:PORT

or inside a test::

    from pocketrec_cloud.delivery.testing import serve_in_thread

    with serve_in_thread(ServerConfig(store=store, keys=keys)) as target:
        channel = grpc.insecure_channel(target)

The server needs ``KEYS/online`` only. It answers while nothing is published, sees a new
publication without a restart, keeps the TUF timestamp fresh, and on SIGTERM or SIGINT sends
streams away and finishes the calls in flight before it ends. Here is one process of it;
``workers`` runs several.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pocketrec.errors import ConfigError, PocketRecError
from pocketrec_cloud.delivery.admin.authentication import AdminAuthenticator
from pocketrec_cloud.delivery.admin.servicer import AdminServicer
from pocketrec_cloud.delivery.operations.dependencies import dependency_checks
from pocketrec_cloud.delivery.operations.operations import Operations
from pocketrec_cloud.delivery.operations.request_ids import ContextThreads
from pocketrec_cloud.delivery.plans.queue import PlanQueue
from pocketrec_cloud.delivery.publishing.layout import TIMESTAMP, target_name
from pocketrec_cloud.delivery.publishing.repository import refresh_timestamp
from pocketrec_cloud.delivery.push.order_keeper import News
from pocketrec_cloud.delivery.push.publications import PublicationWatch
from pocketrec_cloud.delivery.push.watch import WatchParts
from pocketrec_cloud.delivery.rollouts.judge import judge_all
from pocketrec_cloud.delivery.serving.call_limit import CallLimit
from pocketrec_cloud.delivery.serving.composition import build_parts, build_service
from pocketrec_cloud.delivery.serving.config import (
    AdminListener,
    Listening,
    ServerConfig,
    TlsFiles,
    address_of,
)
from pocketrec_cloud.delivery.serving.decoding import DecodingInterceptor
from pocketrec_cloud.delivery.serving.servicer import DeviceServicer
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_proto.v1 import device_service_pb2
from pocketrec_proto.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from pocketrec_proto.v1.device_service_pb2_grpc import add_DeviceServiceServicer_to_server

__all__ = [
    "AdminListener",
    "DeliveryServer",
    "Listening",
    "ServerConfig",
    "TlsFiles",
    "build_service",
    "serve",
]

_LOG = logging.getLogger(__name__)
_SERVICE = device_service_pb2.DESCRIPTOR.services_by_name["DeviceService"].full_name
_WATCH_PATH = f"/{_SERVICE}/WatchPlans"
_WORKERS = 32  # they mostly wait for the disk
_MAX_WATCHED_BATCH = 256
_JUDGE_EVERY_S = 5.0
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", 6 * 1024 * 1024),  # TUF clients take files up to 5 MB
    # A device that is gone without a word is noticed; one that pings is not thrown out.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
# A request is a digest, a pseudonym and one embedding; an answer at most a chunk, or a
# metadata file.
_DEVICE_OPTIONS = (("grpc.max_receive_message_length", 64 * 1024),)
# A piece of a file, or targets metadata.
_ADMIN_OPTIONS = (("grpc.max_receive_message_length", 6 * 1024 * 1024),)


class DeliveryServer:
    """One server process, from start to stop; build it inside a running event loop.

    Args:
        config: How to serve.
        clock: Unix seconds.
        database: What to remember in; None opens the one that ``config`` names.
        worker: Which of ``config.workers`` processes this is, counted from 0.

    Raises:
        ConfigError: A key is absent.
        StoreError: The store has no repository, or its database cannot be used.
        ArtifactError: The store's metadata is damaged.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        clock: Callable[[], float] = time.time,
        database: DeliveryStore | None = None,
        worker: int = 0,
    ) -> None:
        self._config = config
        self._clock = clock
        self._operations = Operations(config.operations, worker=worker)
        self._parts = build_parts(
            config, clock, database=database, metrics=self._operations.metrics
        )
        self._executor = ContextThreads(_WORKERS, thread_name_prefix="pocketrec")
        self._health = health.aio.HealthServicer()
        self._tasks: list[asyncio.Task[None]] = []
        self._device_server = self._make_device_server()
        self._admin_server = None if config.admin is None else self._make_admin_server(config.admin)

    async def start(self) -> Listening:
        """Listen, and keep the timestamp and the orders fresh from now on.

        Raises:
            ConfigError: An address cannot be listened on, or a certificate is unusable.
            OSError: A certificate file cannot be read.
        """
        config, admin = self._config, self._config.admin
        try:
            port = _listen(self._device_server, config.host, config.port, config.tls)
            admin_address = ""
            if admin is not None and self._admin_server is not None:
                admin_port = _listen(self._admin_server, admin.host, admin.port, admin.tls)
                admin_address = address_of(admin.host, admin_port)
            await self._refresh()
            publications = self._make_publication_watch()
            self._watch_orders()
            await self._operations.start(self._checks(), self._health, [_SERVICE])
        except BaseException:
            await self.stop()
            raise
        await self._device_server.start()
        if self._admin_server is not None:
            await self._admin_server.start()
        self._tasks += [
            asyncio.create_task(self._keep_fresh()),
            asyncio.create_task(self._watch_publications(publications)),
            asyncio.create_task(self._judge_rollouts()),
        ]
        return Listening(
            address=address_of(config.host, port),
            admin_address=admin_address,
            metrics_address=self._operations.metrics_address,
        )

    async def stop(self) -> None:
        """Report not serving, send streams away, let calls in flight end, give everything back."""
        await self._operations.drain()
        await self._health.enter_graceful_shutdown()
        for task in self._tasks:
            task.cancel()
        self._parts.hub.drain()
        servers = [s for s in (self._device_server, self._admin_server) if s is not None]
        await asyncio.gather(*(server.stop(self._config.grace_s) for server in servers))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._parts.close)
        self._executor.shutdown()
        await self._operations.stop()

    def _make_device_server(self) -> grpc.aio.Server:
        config, parts = self._config, self._parts
        server = self._make_server(
            most=config.max_calls + config.watch.max_streams,
            limit=CallLimit(config.max_calls, apart=frozenset({_WATCH_PATH})),
            options=_DEVICE_OPTIONS,
        )
        plans = PlanQueue(
            parts.device.director.issue_all, self._executor, max_batch=_MAX_WATCHED_BATCH
        )
        watch = WatchParts(
            hub=parts.hub,
            orders=parts.orders,
            ask=plans.ask,
            find_session=parts.find_session,
            clock=self._clock,
            monotonic=time.monotonic,
        )
        servicer = DeviceServicer(
            parts.device, self._executor, watch, max_plan_batch=config.max_plan_batch
        )
        add_DeviceServiceServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    def _make_admin_server(self, listener: AdminListener) -> grpc.aio.Server:
        most = self._config.max_calls
        server = self._make_server(most=most, limit=CallLimit(most), options=_ADMIN_OPTIONS)
        authenticate = AdminAuthenticator(
            self._parts.storage.database,
            certificates=listener.certificates,
            executor=self._executor,
            clock=self._clock,
        )
        servicer = AdminServicer(self._parts.admin, authenticate, self._executor)
        add_AdminServiceServicer_to_server(servicer, server)
        return server

    def _make_server(
        self, *, most: int, limit: CallLimit, options: Sequence[tuple[str, int]]
    ) -> grpc.aio.Server:
        is_shared = int(self._config.workers > 1)
        # A fleet that comes back at once is let in as fast as it goes; beyond a thousand calls
        # that wait, gRPC would drop some by chance.
        waiting = ("grpc.server.max_pending_requests", most)
        refused = ("grpc.server.max_pending_requests_hard_limit", 2 * most)
        shared = ("grpc.so_reuseport", is_shared)
        return grpc.aio.server(
            interceptors=[*self._operations.interceptors(), limit, DecodingInterceptor()],
            options=[*_CHANNEL_OPTIONS, *options, waiting, refused, shared],
            maximum_concurrent_rpcs=most,
        )

    def _watch_orders(self) -> None:
        """Let the hub hear of what changes, on this loop."""
        loop, hub = asyncio.get_running_loop(), self._parts.hub

        def hear(news: News) -> None:
            loop.call_soon_threadsafe(hub.hear, news)

        self._parts.orders.subscribe(hear)
        self._parts.orders.start()

    def _make_publication_watch(self) -> PublicationWatch:
        """Return what lets the hub hear, on this loop, of publications from now on."""
        loop, parts = asyncio.get_running_loop(), self._parts
        return PublicationWatch(
            parts.device.publication, lambda: loop.call_soon_threadsafe(parts.hub.hear_of_targets)
        )

    async def _watch_publications(self, watch: PublicationWatch) -> None:
        """Look for another publication, again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._config.watch.targets_check_s)
            try:
                await loop.run_in_executor(self._executor, watch.look)
            except (PocketRecError, OSError):
                _LOG.exception("a publication is told of once the store can be read")

    def _checks(self) -> Mapping[str, Callable[[], None]]:
        artifacts = self._parts.storage.artifacts
        return dependency_checks(
            store=self._parts.storage.database,
            read_timestamp=lambda: artifacts.read(TIMESTAMP),
            read_files=self._read_a_file,
            metrics=self._operations.metrics,
            clock=self._clock,
        )

    def _read_a_file(self) -> None:
        """Read a little of what is published, if anything is."""
        for file in islice(self._parts.device.publication.current().files.values(), 1):
            self._parts.storage.artifacts.read_range(target_name(file.sha256), 0, 1)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._config.refresh_every_s)
            await self._refresh()

    async def _judge_rollouts(self) -> None:
        """Let rollouts go on or stop by what devices said, again and again."""
        store, loop = self._parts.storage.database, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_JUDGE_EVERY_S)
            try:
                await loop.run_in_executor(self._executor, judge_all, store, self._clock)
            except (PocketRecError, OSError):
                _LOG.exception("rollouts stay as they are until the store answers")

    async def _refresh(self) -> None:
        """Sign the timestamp again if it is due; a failure is logged and tried again later."""
        storage, keys, loop = self._parts.storage, self._config.keys, asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                self._executor, refresh_timestamp, storage, keys, self._clock()
            )
        except (PocketRecError, OSError):
            _LOG.exception("the TUF timestamp stays as it is; devices refuse it once it expires")


async def serve(
    config: ServerConfig, *, announce: Callable[[Listening], None], worker: int = 0
) -> None:
    """Serve in this process until SIGTERM or SIGINT; call it on the main thread.

    Args:
        config: How to serve.
        announce: Told where, once calls are answered.
        worker: Which of ``config.workers`` processes this is, counted from 0.

    Raises:
        ConfigError: A key or certificate is unusable, or an address is taken.
        StoreError: The store has no repository, or its database cannot be used.
        ArtifactError: The store's metadata is damaged.
    """
    server = DeliveryServer(config, worker=worker)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    announce(await server.start())
    await stopping.wait()
    await server.stop()


def _listen(server: grpc.aio.Server, host: str, port: int, tls: TlsFiles | None) -> int:
    address = address_of(host, port)
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(tls))
    except RuntimeError as exc:
        raise ConfigError(
            f"cannot listen on {address!r}; is the port taken, or the certificate unusable?"
        ) from exc


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=None if tls.client_ca is None else tls.client_ca.read_bytes(),
        require_client_auth=tls.client_ca is not None,
    )
