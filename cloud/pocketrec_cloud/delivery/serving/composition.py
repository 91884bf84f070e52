# SPDX-License-Identifier: Apache-2.0
"""Puts together what one server process works on, after proving that all of it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.admin.service import AdminService
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.operations.metrics import Metrics
from pocketrec_cloud.delivery.operations.stores import watch_store
from pocketrec_cloud.delivery.plans.director import Director
from pocketrec_cloud.delivery.plans.models import ModelCatalogue
from pocketrec_cloud.delivery.plans.rules import FirstRule
from pocketrec_cloud.delivery.publishing.acceptance import PublishingDesk
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore, open_artifacts
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.layout import TIMESTAMP
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.publishing.storage import Storage, open_storage
from pocketrec_cloud.delivery.publishing.targets import manifest_target
from pocketrec_cloud.delivery.push.desk import PushDesk
from pocketrec_cloud.delivery.push.hub import WatchHub
from pocketrec_cloud.delivery.push.order_keeper import OrderKeeper
from pocketrec_cloud.delivery.records import DeviceSession
from pocketrec_cloud.delivery.rollouts.desk import LatencyListener, RolloutDesk, make_desk
from pocketrec_cloud.delivery.rollouts.plan_settings import RolloutRules
from pocketrec_cloud.delivery.serving.config import ServerConfig
from pocketrec_cloud.delivery.serving.handlers import DeliveryService
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.cached import CachedStore
from pocketrec_proto.v1.device_service_pb2 import LatencyHistogram

__all__ = ["ServerParts", "build_parts", "build_service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParts:
    """What one server process works on; every part may be shared between threads.

    Args:
        storage: What is published and remembered.
        device: What answers devices.
        admin: What answers admins.
        orders: Keeps orders fresh; to be started, and closed.
        hub: Wakes streams; belongs to one event loop.
        find_session: Returns whom a token stands for, whatever is remembered of it.
    """

    storage: Storage
    device: DeliveryService
    admin: AdminService
    orders: OrderKeeper
    hub: WatchHub
    find_session: Callable[[bytes], DeviceSession | None]

    def close(self) -> None:
        """Give everything back."""
        self.orders.close()
        self.storage.database.close()


def build_parts(
    config: ServerConfig,
    clock: Callable[[], float],
    *,
    database: DeliveryStore | None = None,
    metrics: Metrics | None = None,
) -> ServerParts:
    """Put together what a server process works on.

    Args:
        config: How to serve.
        clock: Unix seconds.
        database: What to remember in; None opens the one that ``config`` names.
        metrics: Counts; None = nobody does.

    Raises:
        ConfigError: A key is absent.
        StoreError: The store has no repository, or its database cannot be used.
        ArtifactError: The store's metadata is damaged.
    """
    metrics = metrics or Metrics()
    artifacts, watched = _opened(config, database, metrics)
    store = CachedStore(watched, stamp=lambda: artifacts.stamp(TIMESTAMP))
    storage = Storage(artifacts=artifacts, database=store)
    publication = PublicationCache(artifacts)
    publication.current()
    key = _director_key(KeyFolder(config.keys))
    orders, hub = OrderKeeper(store, clock), WatchHub(config.watch)
    models = ModelCatalogue(artifacts, store)
    director = Director(
        models=models,
        store=store,
        key=key,
        clock=clock,
        policy=config.policy,
        rules=FirstRule([orders, RolloutRules(store)]),
        observe=metrics.plans_issued,
    )
    identity = IdentityService.of(
        store, key, recall_session=store.recall_session, limits=config.limits, clock=clock
    )
    desk = make_desk(
        store, publication, key, clock, on_latency=_latency_listener(publication, metrics)
    )
    device = _device_service(publication, storage, director, identity, desk)
    pushes = PushDesk(
        models=models, orders=orders, count_watching=lambda order: len(hub.concerned(order))
    )
    admin = _admin_service(storage, device, pushes, keys=config.keys)
    return ServerParts(
        storage=storage,
        device=device,
        admin=admin,
        orders=orders,
        hub=hub,
        find_session=watched.find_session,
    )


def _latency_listener(publication: PublicationCache, metrics: Metrics) -> LatencyListener:
    """Return what counts the latencies of published model lines; other names are made up."""

    def hear(model_name: str, latency: LatencyHistogram) -> None:
        if manifest_target(model_name) in publication.current().files:
            metrics.reported_latency.add(model_name, latency.bounds_us, latency.counts)

    return hear


def _device_service(
    publication: PublicationCache,
    storage: Storage,
    director: Director,
    identity: IdentityService,
    rollouts: RolloutDesk,
) -> DeliveryService:
    limits = identity.limits
    return DeliveryService(
        artifacts=storage.artifacts,
        publication=publication,
        store=storage.database,
        director=director,
        limits=limits,
        identity=identity,
        plans=RateLimiter(limits.plans_per_minute, time.monotonic),
        clock=identity.clock,
        rollouts=rollouts,
    )


def _admin_service(
    storage: Storage, device: DeliveryService, pushes: PushDesk, *, keys: Path
) -> AdminService:
    return AdminService(
        store=storage.database,
        clock=device.clock,
        publishing=PublishingDesk(storage=storage, keys=keys),
        pushes=pushes,
        rollouts=device.rollouts,
        model_lines=lambda: _model_lines(device.publication),
    )


def build_service(
    config: ServerConfig, clock: Callable[[], float], *, database: DeliveryStore | None = None
) -> tuple[DeliveryStore, DeliveryService]:
    """Put together what the handlers for devices work on; see :func:`build_parts`.

    Returns:
        The database, for the caller to close, and the service on top of it.

    Raises:
        ConfigError: A key is absent.
        StoreError: The store has no repository, or its database cannot be used.
        ArtifactError: The store's metadata is damaged.
    """
    parts = build_parts(config, clock, database=database)
    return parts.storage.database, parts.device


def _opened(
    config: ServerConfig, database: DeliveryStore | None, metrics: Metrics
) -> tuple[ArtifactStore, DeliveryStore]:
    """Return the published files, and a database whose operations are counted."""
    if database is None:
        storage = open_storage(config.store, config.database)
    else:
        storage = Storage(artifacts=open_artifacts(config.store), database=database)
    return storage.artifacts, watch_store(storage.database, metrics.storing)


def _director_key(keys: KeyFolder) -> SigningKey:
    """Return the director's key, after a look at the other keys that a server needs."""
    for role in (Role.SNAPSHOT, Role.TIMESTAMP):
        keys.load(role)
    return keys.load(Role.DIRECTOR)


def _model_lines(publication: PublicationCache) -> Collection[str]:
    paths = publication.current().files
    return {path.partition("/")[0] for path in paths if path.endswith("/manifest.pb")}
