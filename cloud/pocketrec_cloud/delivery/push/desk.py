# SPDX-License-Identifier: Apache-2.0
"""What the admin calls about pushes work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pocketrec_cloud.delivery.plans.models import ModelCatalogue
from pocketrec_cloud.delivery.push.order_keeper import OrderKeeper
from pocketrec_cloud.delivery.records import OrderRecord

__all__ = ["PushDesk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushDesk:
    """What the handlers need besides the store; safe to share between threads.

    Args:
        models: What can be planned for.
        orders: The orders that hold now.
        count_watching: Returns how many devices that an order is for watch this process now.
    """

    models: ModelCatalogue
    orders: OrderKeeper
    count_watching: Callable[[OrderRecord], int]
