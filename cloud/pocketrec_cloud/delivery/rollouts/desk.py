# SPDX-License-Identifier: Apache-2.0
"""What the calls about rollouts work on, for devices and for admins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.rollouts.assigner import Assigner
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_proto.v1 import device_service_pb2 as pb

__all__ = ["LatencyListener", "RolloutDesk", "make_desk"]

LatencyListener = Callable[[str, pb.LatencyHistogram], None]
"""Hears what devices tell of the time that calls of rerank took, by model line."""

_CALLS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutDesk:
    """What the handlers work on; every part may be shared between threads.

    Args:
        store: What the server remembers.
        assigner: Says which bundle a device should run.
        clock: Unix seconds.
        asked: How often a device may ask.
        reported: How often a device may report.
        on_latency: Hears of the histograms in reports, which are not kept; None = nobody.
    """

    store: DeliveryStore
    assigner: Assigner
    clock: Callable[[], float]
    asked: RateLimiter
    reported: RateLimiter
    on_latency: LatencyListener | None = None


def make_desk(
    store: DeliveryStore,
    publication: PublicationCache,
    key: SigningKey,
    clock: Callable[[], float],
    *,
    on_latency: LatencyListener | None = None,
) -> RolloutDesk:
    """Put a desk together.

    Args:
        store: What the server remembers.
        publication: What TUF vouches for.
        key: The director key.
        clock: Unix seconds.
        on_latency: See ``RolloutDesk``.
    """
    return RolloutDesk(
        store=store,
        assigner=Assigner(store, publication, key, clock),
        clock=clock,
        asked=RateLimiter(_CALLS_PER_MINUTE, time.monotonic),
        reported=RateLimiter(_CALLS_PER_MINUTE, time.monotonic),
        on_latency=on_latency,
    )
