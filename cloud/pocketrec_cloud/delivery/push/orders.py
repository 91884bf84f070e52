# SPDX-License-Identifier: Apache-2.0
"""Which order holds for whom: the newest of the most special audience, as one value.

An order for a subject comes before those for cohorts, and these before those for everybody.
Orders that were cancelled or have expired hold for nobody.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from pocketrec_cloud.delivery.cohorts import Cohort
from pocketrec_cloud.delivery.plans.rules import PlanSettings
from pocketrec_cloud.delivery.records import AudienceKind, DeviceRecord, OrderRecord

__all__ = ["FindDevice", "OrderBook", "concerns", "settings_of"]

FindDevice: TypeAlias = Callable[[], DeviceRecord | None]
"""Returns the device that is asked about; called only where a cohort has to be decided."""

_cohort = functools.lru_cache(maxsize=1024)(Cohort.parse)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderBook:
    """All orders up to one of them, arranged for looking up; never changes.

    Args:
        last_sequence: Of the newest record; 0 = there is none.
        orders: Those that were not cancelled, by sequence.
        subjects: The same for one subject, the newest first.
        cohorts: The same for a cohort, the newest first.
        everybody: The same for everybody, the newest first.
    """

    last_sequence: int = 0
    orders: Mapping[int, OrderRecord] = field(default_factory=dict)
    subjects: Mapping[str, tuple[OrderRecord, ...]] = field(default_factory=dict)
    cohorts: tuple[OrderRecord, ...] = ()
    everybody: tuple[OrderRecord, ...] = ()

    def with_records(self, records: Iterable[OrderRecord], *, now_s: float) -> OrderBook:
        """Return a book that has more records, cancellations among them, and no expired order.

        Args:
            records: In the order of their sequences, all above ``last_sequence``.
            now_s: Unix seconds.
        """
        orders, last = dict(self.orders), self.last_sequence
        for record in records:
            last = max(last, record.sequence)
            if record.cancels:
                orders.pop(record.cancels, None)
            else:
                orders[record.sequence] = record
        held = [order for order in orders.values() if not _is_expired(order, now_s)]
        newest = sorted(held, key=lambda order: order.sequence, reverse=True)
        subjects: defaultdict[str, list[OrderRecord]] = defaultdict(list)
        for order in newest:
            if order.audience is AudienceKind.SUBJECT:
                subjects[order.audience_value].append(order)
        return OrderBook(
            last_sequence=last,
            orders=MappingProxyType({order.sequence: order for order in newest[::-1]}),
            subjects=MappingProxyType({name: tuple(found) for name, found in subjects.items()}),
            cohorts=tuple(o for o in newest if o.audience is AudienceKind.COHORT),
            everybody=tuple(o for o in newest if o.audience is AudienceKind.EVERYBODY),
        )

    def find(
        self, subject: str, device: FindDevice, model_digest: bytes, *, now_s: float
    ) -> OrderRecord | None:
        """Return the order that holds for a device, if one does.

        Args:
            subject: Whom its plan is for.
            device: Gives the facts that cohorts are about; without them none matches.
            model_digest: 32 bytes, of the frozen model the plan is for.
            now_s: Unix seconds.

        Raises:
            StoreError: ``device`` says so.
        """
        for order in self._by_speciality(subject, device):
            if order.model_digest in {b"", model_digest} and not _is_expired(order, now_s):
                return order
        return None

    def expired_since(self, now_s: float) -> tuple[OrderRecord, ...]:
        """Return the orders in this book that do not hold any more at ``now_s``."""
        return tuple(order for order in self.orders.values() if _is_expired(order, now_s))

    def _by_speciality(self, subject: str, device: FindDevice) -> Iterator[OrderRecord]:
        """Yield the orders for a device, but for model and expiry, in the order they count."""
        if subject:
            yield from self.subjects.get(subject, ())
        facts = device() if self.cohorts else None
        if facts is not None:
            yield from (o for o in self.cohorts if _cohort(o.audience_value).matches(facts))
        yield from self.everybody


def settings_of(order: OrderRecord) -> PlanSettings:
    """Return what an order says of plans."""
    return PlanSettings(planner=order.planner, average_bits=order.average_bits, codes=order.codes)


def concerns(
    order: OrderRecord, subject: str, device: DeviceRecord | None, model_digest: bytes
) -> bool:
    """Whether a device is among those an order is for, held or not.

    Args:
        order: Not a cancellation.
        subject: Whom the device's plan is for.
        device: What it declares; None = not known, so it belongs to no cohort.
        model_digest: 32 bytes, of the frozen model it runs.
    """
    if order.model_digest not in {b"", model_digest}:
        return False
    if order.audience is AudienceKind.SUBJECT:
        return order.audience_value == subject
    if order.audience is AudienceKind.COHORT:
        return device is not None and _cohort(order.audience_value).matches(device)
    return True


def _is_expired(order: OrderRecord, now_s: float) -> bool:
    return 0 < order.expires_at_s <= now_s
