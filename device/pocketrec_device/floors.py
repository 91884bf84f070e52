# SPDX-License-Identifier: Apache-2.0
"""What a device does not go back behind, and what each bundle did to that.

A floor is the highest version that was ever accepted. A bundle that the director took back does
not count any more, so a device remembers which of its last bundles raised its floors, and from
where.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

__all__ = [
    "MAX_RAISED_FLOORS",
    "BundleFloors",
    "ItemsFloor",
    "PlanFloor",
    "RaisedFloors",
    "higher_items",
    "raise_floors",
    "without_bundles",
]

MAX_RAISED_FLOORS = 16
"""How many bundles that raised a floor are told apart; what older ones raised stays for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFloor:
    """The highest plan version accepted for one model and subject.

    Args:
        model_digest: Digest of the frozen part, in hex.
        subject: Whom the plans are for; empty = everybody.
        version: From 1.
    """

    model_digest: str
    subject: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsFloor:
    """The newest item table accepted for the model that was installed last.

    Args:
        model_digest: Digest of the frozen part, in hex.
        version: Of the item table.
        sha256: Digest of the item table, in hex.
    """

    model_digest: str
    version: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFloors:
    """The highest bundle version ever accepted, and the newest item table, if it is known."""

    bundle_version: int
    items: ItemsFloor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedFloors:
    """What one bundle raised the floors to.

    Args:
        bundle: Digest of the bundle, in hex.
        version: Of the bundle.
        items: Its item table, if it is known.
        version_before: The floor that it found.
        items_before: Likewise.
    """

    bundle: str
    version: int
    items: ItemsFloor | None
    version_before: int
    items_before: ItemsFloor | None


def higher_items(floor: ItemsFloor | None, items: ItemsFloor | None) -> ItemsFloor | None:
    """Return what is the floor of item tables once a table was accepted."""
    if items is None or floor is None:
        return items or floor
    is_lower = items.model_digest == floor.model_digest and items.version < floor.version
    return floor if is_lower else items


def raise_floors(
    raised: tuple[RaisedFloors, ...],
    floors: BundleFloors,
    bundle: str,
    accepted: BundleFloors,
) -> tuple[tuple[RaisedFloors, ...], BundleFloors]:
    """Return what raised the floors, and the floors, once a bundle was accepted.

    Args:
        raised: What raised them so far, the oldest first.
        floors: As they are.
        bundle: Digest of the bundle, in hex.
        accepted: Its version and its item table.
    """
    after = BundleFloors(
        bundle_version=max(floors.bundle_version, accepted.bundle_version),
        items=higher_items(floors.items, accepted.items),
    )
    if after == floors:
        return raised, floors
    newest = RaisedFloors(
        bundle=bundle,
        version=accepted.bundle_version,
        items=accepted.items,
        version_before=floors.bundle_version,
        items_before=floors.items,
    )
    return (*raised, newest)[-MAX_RAISED_FLOORS:], after


def without_bundles(
    raised: tuple[RaisedFloors, ...], floors: BundleFloors, bundles: Collection[str]
) -> tuple[tuple[RaisedFloors, ...], BundleFloors]:
    """Return what raised the floors, and the floors, as if some bundles had never been accepted.

    Args:
        raised: What raised them, the oldest first.
        floors: As they are.
        bundles: Digests, in hex; those that are not in ``raised`` change nothing.
    """
    kept = [entry for entry in raised if entry.bundle not in bundles]
    if len(kept) == len(raised):
        return raised, floors
    first = raised[0]
    before = BundleFloors(bundle_version=first.version_before, items=first.items_before)
    return _replayed(kept, before)


def _replayed(
    entries: Iterable[RaisedFloors], floors: BundleFloors
) -> tuple[tuple[RaisedFloors, ...], BundleFloors]:
    replayed: list[RaisedFloors] = []
    for entry in entries:
        before, floors = (
            floors,
            BundleFloors(
                bundle_version=max(floors.bundle_version, entry.version),
                items=higher_items(floors.items, entry.items),
            ),
        )
        replayed.append(
            replace(entry, version_before=before.bundle_version, items_before=before.items)
        )
    return tuple(replayed), floors
