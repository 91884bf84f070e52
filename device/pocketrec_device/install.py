# SPDX-License-Identifier: Apache-2.0
"""Makes another pair the current one: the only places where a store switches.

Whatever the source, the order is the same: artifacts complete on disk, engine built and
healthy, state switched, leftovers deleted. A failure anywhere before the switch leaves
the store as it was. Callers hold the store's lock.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pocketrec.errors import (
    ArtifactError,
    IntegrityError,
    MalformedArtifactError,
    StoreError,
)
from pocketrec_device.backends import DEFAULT_PLAN_ONLY
from pocketrec_device.engine import Engine, EngineSettings, build_engine
from pocketrec_device.health import build_healthy_engine
from pocketrec_device.state import DeviceState, Pair
from pocketrec_device.updater import accept_items, accept_manifest, items_of
from pocketrec_quantization.bundle import DEFAULT_PLAN, MANIFEST_FILE, BundleFolder
from pocketrec_quantization.plan import check_applies, decode_plan

if TYPE_CHECKING:
    from pocketrec_device.store import Store

__all__ = [
    "Guard",
    "accepted_bundles",
    "bootstrap",
    "held_plan",
    "kept_plan",
    "load_engine",
    "roll_back",
    "switch",
]

Guard: TypeAlias = Callable[[Engine], None]
"""Raises ``HealthCheckError`` for a new engine that is healthy but must not go live."""

_MAX_READS = 3
"""How often a reader starts again because a writer deleted what it was about to read."""


def switch(
    store: Store,
    state: DeviceState,
    bundle: str,
    plan_data: bytes,
    settings: EngineSettings,
    *,
    guard: Guard | None = None,
) -> Engine:
    """Make a bundle that is complete in the store, and a plan, the current pair.

    Args:
        store: Its lock is held.
        state: The state to start from; floors are raised already.
        bundle: Digest of the bundle, in hex.
        plan_data: A plan container that was accepted.
        settings: How to build the engine.
        guard: Asked before a pair that is not the current one goes live.

    Raises:
        HealthCheckError: The pair does not prove itself on this device, or the guard
            refuses it.
        ArtifactError: The pair cannot be used.
        BackendError: The backend cannot be made.
        OSError: The store cannot be written.
    """
    folder = store.open_bundle(bundle)
    engine = build_healthy_engine(folder, plan_data, settings)
    if guard is not None and engine.pair != state.current:
        guard(engine)
    store.put_plan(plan_data)
    switched = store.within_limit(
        state.switched(
            engine.pair,
            bundle_version=folder.manifest.version,
            items=items_of(folder.manifest),
        )
    )
    store.save(switched)
    with contextlib.suppress(OSError):  # what cannot be deleted now is deleted next time
        store.prune(switched)
    return engine


def bootstrap(
    store: Store, packaged: Path, settings: EngineSettings, *, guard: Guard | None = None
) -> Engine | None:
    """Install a bundle that came with the app, without a network.

    The app's own packaging vouches for it. A personal plan that still fits is kept.

    Args:
        store: Its lock is held.
        packaged: A bundle folder.
        settings: How to build the engine.
        guard: As for ``switch``.

    Returns:
        The new engine, or None when this bundle is the current one, is older than the
        one accepted last, is held back after a rollback, or was taken back.

    Raises:
        RollbackError: The version, or that of the item table, was accepted before with
            other content, or is older.
        ArtifactError: The bundle cannot be used.
        BackendError: The backend cannot be made.
        DiskFullError: There is no room for it; nothing was written.
        OSError: The store cannot be written, or the packaged bundle cannot be read.
    """
    state, source = store.load(), BundleFolder.open(packaged)
    if _is_unwanted(source, state):
        return None
    manifest_data = (packaged / MANIFEST_FILE).read_bytes()
    manifest = accept_manifest(
        manifest_data,
        model=state.model,
        floor=state.bundle_version,
        accepted=accepted_bundles(state),
    )
    accept_items(manifest, state.items_floor)
    digest = hashlib.sha256(manifest_data).hexdigest()
    absent = [part for part in manifest.parts if not store.has_part(digest, part.sha256.hex())]
    if not absent and _runs_already(store, state, digest):
        return None
    store.make_room(sum(part.length_bytes for part in absent), state)
    for part in absent:
        store.put_part(digest, source.read(part.name))
    store.put_manifest(manifest_data)
    held = None if settings.backend in DEFAULT_PLAN_ONLY else held_plan(store, state, source)
    plan_data = held or source.read(DEFAULT_PLAN)
    return switch(store, state, digest, plan_data, settings, guard=guard)


def roll_back(store: Store, settings: EngineSettings, bundle: str = "") -> Engine:
    """Go back to the previous pair, or to an older one that was kept; nothing is downloaded.

    Args:
        store: Its lock is held.
        settings: How to build the engine.
        bundle: Digest in hex of the bundle to go back to; empty = the previous pair.

    Raises:
        StoreError: There is no such pair.
        ArtifactError: That pair cannot be used; the current one stays.
        BackendError: The backend cannot be made.
        OSError: The store cannot be read or written.
    """
    state = store.load().rolled_back(bundle)
    if state.current is None:
        raise StoreError("there is no previous pair to roll back to; nothing was changed")
    engine = _load(store, state.current, settings)
    limited = store.within_limit(state)
    store.save(limited)
    if limited != state:
        with contextlib.suppress(OSError):
            store.prune(limited)
    return engine


def load_engine(store: Store, settings: EngineSettings) -> tuple[Engine, str]:
    """Return the engine of the current pair, or of the newest one that is not damaged.

    Args:
        store: Read only; no lock is needed.
        settings: How to build the engine.

    Returns:
        ``engine``: What will rank.
        ``problem``: Why it is not the current pair; empty when it is.

    Raises:
        StoreError: Nothing is installed, or every pair is damaged.
        StoreAccessError: The state may not be read.
        IncompatibleArtifactError: The current pair cannot run with these settings.
        BackendError: The backend cannot be made.
    """
    for _ in range(_MAX_READS):
        state = store.load()
        problems: list[str] = []
        for pair in state.pairs:
            try:
                return _load(store, pair, settings), "; ".join(problems)
            except (IntegrityError, MalformedArtifactError, StoreError, OSError) as exc:
                problems.append(f"bundle {pair.bundle[:12]}: {exc}")
        if store.load() == state:
            break  # no writer came between: what was read is what there is
    if problems:
        raise StoreError(
            f"no installed pair in {str(store.path)!r} can be used ({'; '.join(problems)}); "
            "sync, or bootstrap from a packaged bundle"
        )
    raise StoreError(
        f"nothing is installed in {str(store.path)!r} yet; sync, or bootstrap from a packaged "
        "bundle"
    )


def held_plan(
    store: Store, state: DeviceState, bundle: BundleFolder, subject: str | None = None
) -> bytes | None:
    """Return the current personal plan if it can go on with a bundle, else None.

    Args:
        store: Where the plan is.
        state: Says which plan is current.
        bundle: What it must fit.
        subject: Whom it must be for; None = whoever it is for now.
    """
    return None if state.current is None else _fitting(store, state.current, bundle, subject)


def kept_plan(
    store: Store, state: DeviceState, bundle: BundleFolder, subject: str, version: int
) -> bytes | None:
    """Return a personal plan that an older pair left here, if it is exactly this one.

    Args:
        store: Where the plans are.
        state: Says which plans are there.
        bundle: What it must fit.
        subject: Whom it must be for.
        version: What it must be; a lower one would go back behind what was accepted.
    """
    for pair in state.pairs[1:]:
        data = _fitting(store, pair, bundle, subject)
        if data is not None and decode_plan(data).version == version:
            return data
    return None


def accepted_bundles(state: DeviceState) -> frozenset[str]:
    """Return the digests, in hex, of the bundles this device accepted and still knows."""
    return frozenset([*(pair.bundle for pair in state.pairs), state.held_back])


def _fitting(store: Store, pair: Pair, bundle: BundleFolder, subject: str | None) -> bytes | None:
    """Return a pair's plan if it is personal, for this subject, and fits a bundle."""
    try:
        data = store.read_plan(pair.plan)
        plan = decode_plan(data)
        check_applies(plan, bundle.manifest.layers, bundle.model_digest)
    except (ArtifactError, StoreError, OSError):
        return None  # damaged, or for another model: another plan takes its place
    is_personal = plan.version > 0 and subject in {None, plan.subject}
    return data if is_personal else None


def _is_unwanted(source: BundleFolder, state: DeviceState) -> bool:
    """Whether a packaged bundle is what an app update has not caught up with yet."""
    if state.current is None or source.manifest.model_name != state.model:
        return False
    is_older = source.manifest.version < state.bundle_version
    return is_older or source.digest.hex() in {state.held_back, *state.withdrawn}


def _runs_already(store: Store, state: DeviceState, bundle: str) -> bool:
    """Whether a bundle is the current one, and neither its manifest nor its plan is damaged."""
    if state.current is None or state.current.bundle != bundle:
        return False
    try:
        store.open_bundle(bundle)
        store.read_plan(state.current.plan)
    except (ArtifactError, StoreError):
        return False
    return True


def _load(store: Store, pair: Pair, settings: EngineSettings) -> Engine:
    return build_engine(store.open_bundle(pair.bundle), store.read_plan(pair.plan), settings)
