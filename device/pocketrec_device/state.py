# SPDX-License-Identifier: Apache-2.0
"""What a device remembers between runs: one small value, and its JSON.

The state names which bundle and plan run now, which ran before, and the highest
versions that were ever accepted. It lives outside the bundle folders, so replacing a
bundle never forgets what must not come back. Every change returns a new value; the
``store`` writes it.

The file is ``{"sha256": <hex of the state's canonical JSON>, "state": {...}}``: damage
that still parses as JSON is noticed too. Within one schema fields may be added: one that
is absent has its default, one that is unknown is passed over, and those that came after the
first release are written only when they say something, so that release can read them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pocketrec.errors import ConfigError, MalformedArtifactError, StoreError
from pocketrec_device.floors import (
    BundleFloors,
    ItemsFloor,
    PlanFloor,
    RaisedFloors,
    raise_floors,
    without_bundles,
)
from pocketrec_device.watch_mark import WatchMark

__all__ = [
    "MAX_KEPT_PAIRS",
    "MAX_PLAN_FLOORS",
    "STATE_SCHEMA",
    "DeviceState",
    "ItemsFloor",
    "Pair",
    "PlanFloor",
    "decode_state",
    "encode_state",
]

STATE_SCHEMA = 1
MAX_PLAN_FLOORS = 256
"""How many floors are kept; the one that was raised longest ago goes first."""

MAX_KEPT_PAIRS = 64
"""How many pairs besides current and previous; the one that was used longest ago goes first."""

_ADDED_LATER = (
    "kept",
    "root_sha256",
    "items_floor",
    "raised",
    "assignment_version",
    "withdrawn",
    "token_lifetime_s",
    "token_ends_at_s",
    "profile_sha256",
    "watched",
)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One bundle and one plan that were installed together.

    Args:
        bundle: Digest of the manifest, 64 hex characters.
        plan: SHA-256 of the plan file, 64 hex characters.

    Raises:
        ConfigError: One of them is no such digest.
    """

    bundle: str
    plan: str

    def __post_init__(self) -> None:
        for name, value in (("bundle", self.bundle), ("plan", self.plan)):
            if not _HEX_DIGEST.fullmatch(value):
                raise ConfigError(f"{name}: expected 64 lower-case hex characters, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Everything ``state.json`` holds.

    Args:
        model: The model line this store follows, e.g. ``"demo"``.
        server: Where the token is from; another server gets another token.
        device_id: The name under which that server knows this device.
        token: What authenticates calls to that server. A secret.
        current: What runs now, or None before the first installation.
        previous: What ran before, for ``rollback``.
        bundle_version: The highest bundle version ever accepted.
        plan_floors: The highest plan version ever accepted, per model and subject.
        time_floor_s: Unix seconds; the newest signed time seen. A clock set further back
            is not believed.
        held_back: Digest of the bundle that ``rollback`` left, which ``sync`` must not
            bring back; empty = none.
        kept: Older pairs whose files may still be there, the one used last first. A hint:
            room that is needed is taken from them.
        root_sha256: Digest of ``root.json`` in hex; empty = not known.
        items_floor: The newest item table of the model installed last; None = not known.
        raised: What the last bundles did to the two floors, the oldest first.
        assignment_version: The highest version of an assignment ever accepted; 0 = none.
        withdrawn: Digests in hex of the bundles that the last assignment took back.
        token_lifetime_s: Seconds that the token lives from its registration on.
        token_ends_at_s: When it ends, by the device's own clock.
        profile_sha256: What the device told of itself then, as a digest in hex.
        watched: How far it has come with a server's orders; None = it never watched.
    """

    model: str
    server: str = ""
    device_id: str = ""
    token: str = field(default="", repr=False)
    current: Pair | None = None
    previous: Pair | None = None
    bundle_version: int = 0
    plan_floors: tuple[PlanFloor, ...] = ()
    time_floor_s: int = 0
    held_back: str = ""
    kept: tuple[Pair, ...] = ()
    root_sha256: str = ""
    items_floor: ItemsFloor | None = None
    raised: tuple[RaisedFloors, ...] = ()
    assignment_version: int = 0
    withdrawn: tuple[str, ...] = ()
    token_lifetime_s: int = 0
    token_ends_at_s: int = 0
    profile_sha256: str = ""
    watched: WatchMark | None = None

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair there is: current, previous, and the older ones, the last used first."""
        newest = [pair for pair in (self.current, self.previous) if pair is not None]
        return (*newest, *self.kept)

    def plan_floor(self, model_digest: bytes, subject: str) -> int:
        """Return the highest plan version accepted for this model and subject, or 0."""
        key = (model_digest.hex(), subject)
        return next((f.version for f in self.plan_floors if (f.model_digest, f.subject) == key), 0)

    def with_plan_floor(self, model_digest: bytes, subject: str, version: int) -> DeviceState:
        """Return a state that accepts only higher plan versions from now on."""
        floor = PlanFloor(model_digest=model_digest.hex(), subject=subject, version=version)
        key = (floor.model_digest, subject)
        others = [f for f in self.plan_floors if (f.model_digest, f.subject) != key]
        return replace(self, plan_floors=(*others[1 - MAX_PLAN_FLOORS :], floor))

    def switched(
        self, pair: Pair, *, bundle_version: int, items: ItemsFloor | None = None
    ) -> DeviceState:
        """Return a state in which ``pair`` runs and what ran before can come back.

        Args:
            pair: What runs from now on.
            bundle_version: Of its bundle.
            items: Its item table; None leaves the floor as it is.
        """
        if pair == self.current:
            return self
        held_back = self.held_back if self.current and self.current.bundle == pair.bundle else ""
        accepted = BundleFloors(bundle_version=bundle_version, items=items)
        raised, floors = raise_floors(self.raised, self._floors, pair.bundle, accepted)
        return replace(
            self._led_by(pair),
            bundle_version=floors.bundle_version,
            held_back=held_back,
            items_floor=floors.items,
            raised=raised,
        )

    def assigned(self, version: int, withdrawn: tuple[str, ...], issued_at_s: int) -> DeviceState:
        """Return a state that accepts no older assignment any more.

        Args:
            version: Of the assignment that was accepted.
            withdrawn: Digests in hex of the bundles that it takes back.
            issued_at_s: When it was signed, Unix seconds.
        """
        return replace(
            self,
            assignment_version=max(self.assignment_version, version),
            withdrawn=withdrawn,
            time_floor_s=max(self.time_floor_s, issued_at_s),
        )

    def without_withdrawn(self) -> DeviceState:
        """Return a state whose floors are as if what was taken back had never been accepted."""
        raised, floors = without_bundles(self.raised, self._floors, self.withdrawn)
        return replace(
            self,
            raised=raised,
            bundle_version=floors.bundle_version,
            items_floor=floors.items,
        )

    @property
    def _floors(self) -> BundleFloors:
        return BundleFloors(bundle_version=self.bundle_version, items=self.items_floor)

    def rolled_back(self, bundle: str = "") -> DeviceState:
        """Return a state in which an older pair runs; the bundle left stays until a newer one.

        Args:
            bundle: Digest in hex of the bundle to go back to; empty = the previous pair.

        Raises:
            StoreError: There is no such pair, or its bundle was taken back.
        """
        wanted = [pair for pair in self.pairs[1:] if bundle in {"", pair.bundle}]
        older = [pair for pair in wanted if pair.bundle not in self.withdrawn]
        if self.current is None or not older:
            which = f"pair with bundle {bundle}" if bundle else "previous pair"
            raise StoreError(f"there is no {which} to roll back to; nothing was changed")
        left = self.current.bundle
        held_back = left if left != older[0].bundle else self.held_back
        return replace(self._led_by(older[0]), held_back=held_back)

    def _led_by(self, pair: Pair) -> DeviceState:
        """Return a state in which ``pair`` is the current one and all others step back."""
        others = [other for other in self.pairs if other != pair]
        return replace(
            self,
            current=pair,
            previous=others[0] if others else None,
            kept=tuple(others[1 : 1 + MAX_KEPT_PAIRS]),
        )


def encode_state(state: DeviceState) -> bytes:
    """Return the content of ``state.json``."""
    body = {"schema": STATE_SCHEMA} | asdict(state)
    for name in _ADDED_LATER:
        if not body[name]:
            del body[name]
    return json.dumps({"sha256": _digest(body), "state": body}, indent=1).encode()


def decode_state(data: bytes) -> DeviceState:
    """Return the state that ``encode_state`` wrote.

    Raises:
        MalformedArtifactError: The bytes are not such a file, or were changed.
    """
    try:
        outer = json.loads(data)
        return _from_json(outer["state"], checksum=outer["sha256"])
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise MalformedArtifactError(f"not a device state: {exc}", field="state.json") from exc


def _from_json(body: dict[str, Any], *, checksum: str) -> DeviceState:
    if checksum != _digest(body):
        raise ConfigError("its checksum does not match its content")
    schema = body.pop("schema")
    if schema != STATE_SCHEMA:
        raise ConfigError(f"expected schema {STATE_SCHEMA}, got {schema!r}; update pocketrec")
    floors = tuple(PlanFloor(**floor) for floor in body.pop("plan_floors"))
    current, previous = body.pop("current"), body.pop("previous")
    kept = tuple(Pair(**pair) for pair in body.pop("kept", ()))
    items = _items_from_json(body.pop("items_floor", None))
    raised = tuple(_raised_from_json(**entry) for entry in body.pop("raised", ()))
    withdrawn = tuple(body.pop("withdrawn", ()))
    watched = body.pop("watched", None)
    known = {field.name for field in fields(DeviceState)}
    return DeviceState(
        **{name: value for name, value in body.items() if name in known},
        plan_floors=floors,
        current=None if current is None else Pair(**current),
        previous=None if previous is None else Pair(**previous),
        kept=kept,
        items_floor=items,
        raised=raised,
        withdrawn=withdrawn,
        watched=None if watched is None else WatchMark(**watched),
    )


def _items_from_json(items: dict[str, Any] | None) -> ItemsFloor | None:
    return None if items is None else ItemsFloor(**items)


def _raised_from_json(
    *, items: dict[str, Any] | None, items_before: dict[str, Any] | None, **entry: Any
) -> RaisedFloors:
    return RaisedFloors(
        items=_items_from_json(items), items_before=_items_from_json(items_before), **entry
    )


def _digest(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
