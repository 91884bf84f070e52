# SPDX-License-Identifier: Apache-2.0
"""Brings a store up to date: the IO around what ``updater`` decides.

In this order, each step only after the one before it succeeded:

* register, unless this server gave us a token that still has time left;
* TUF refresh: root, timestamp, snapshot, targets;
* the assignment, if the server has one: which of the published bundles to run;
* the manifest of that bundle, otherwise ``<model>/manifest.pb``, then, if there is room for all
  that is missing, every part of it, each resumed where it broke;
* ``director.json``, then a plan for this model and subject, by the user embedding if there
  is one: item ids do not come as far as this module;
* health check, switch, clean up.

A failure leaves the running pair as it was. What was downloaded stays, so the next sync
does not fetch it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    RejectedError,
)
from pocketrec_device.assignments import AssignmentRules, accept_assignment, assigned_target
from pocketrec_device.backends import DEFAULT_PLAN_ONLY
from pocketrec_device.engine import Engine, EngineSettings
from pocketrec_device.extraction import CodedEmbedding
from pocketrec_device.facts import DeviceFacts, device_profile
from pocketrec_device.install import Guard, accepted_bundles, switch
from pocketrec_device.plan_slot import PlanSlot
from pocketrec_device.published import fetch_director_keys, fetch_small, required_target
from pocketrec_device.registration import forget_token, registered
from pocketrec_device.reporting import UpdateAttempt
from pocketrec_device.status import SyncReport
from pocketrec_device.transport import ServiceClient
from pocketrec_device.tuf_client import PublishedTargets, TrustedTargets
from pocketrec_device.updater import (
    TargetInfo,
    accept_items,
    accept_manifest,
    accept_part,
)
from pocketrec_quantization.bundle import DEFAULT_PLAN, BundleFolder, Manifest, PartInfo
from pocketrec_quantization.checks import check_text
from pocketrec_quantization.limits import MAX_MANIFEST_BYTES, MAX_SUBJECT_LENGTH

if TYPE_CHECKING:
    from pocketrec.signing import PublicKey
    from pocketrec_device.state import DeviceState
    from pocketrec_device.store import Store

__all__ = ["Embed", "PlanWish", "synchronise"]

Embed: TypeAlias = Callable[[BundleFolder], NDArray[np.float32] | None]
"""Returns the user embedding, (D,) float32, as a bundle's extractor has it, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWish:
    """What plan the app wants.

    Args:
        subject: A pseudonym for the user; empty = the plan for everybody.
        average_bits: Average bits per coded weight; 0 = the server decides.

    Raises:
        ConfigError: The subject is no text of at most 128 characters of one line, or the
            bits lie outside 0..8.
    """

    subject: str = ""
    average_bits: float = 0.0

    def __post_init__(self) -> None:
        check_text(self.subject, field="subject", maximum=MAX_SUBJECT_LENGTH)
        if not 0 <= self.average_bits <= 8:
            raise ConfigError(f"average_bits: expected 0 to 8, got {self.average_bits}")


def synchronise(
    store: Store,
    client: ServiceClient,
    wish: PlanWish,
    settings: EngineSettings,
    *,
    clock: Callable[[], float],
    guard: Guard | None = None,
    embed: Embed | None = None,
    attempt: UpdateAttempt | None = None,
    facts: DeviceFacts | None = None,
) -> tuple[Engine, SyncReport]:
    """Bring a store up to date and return the engine of what is current now.

    Args:
        store: Its lock is held.
        client: A connection, not authenticated yet.
        wish: What plan the app wants.
        settings: How to build the engine.
        clock: Unix seconds.
        guard: Asked before a pair that is not the current one goes live.
        embed: Gives the user embedding to send for a subject's plan; None = never any.
        attempt: Is told what this sync is about, as far as it comes.
        facts: What the app declares of this device; None = nothing.

    Raises:
        IncompatibleArtifactError: A plan is wished for that the backend cannot run.
        ArtifactError: Something that was offered cannot be accepted.
        RejectedError: The server refused, or has nothing for this model.
        ServiceError: The server could not be asked.
        BackendError: The backend cannot be made.
        StoreError: The store has no root of trust, or is damaged.
        DiskFullError: There is no room for what is missing; none of it was fetched.
        OSError: The store cannot be written.
    """
    _refuse_vain_wish(wish, settings.backend)
    root = store.root()
    state = store.load()
    had_token = state.server == client.target and bool(state.token)
    steps = _Sync(
        store,
        client,
        settings,
        clock,
        guard=guard,
        embed=embed,
        facts=facts,
        attempt=attempt,
    )
    try:
        return steps.run(root, wish)
    except RejectedError as exc:
        if exc.code != "UNAUTHENTICATED" or not had_token:
            raise
    # The server has forgotten us: become known again, once.
    forget_token(store)
    return steps.run(root, wish)


class _Sync:
    """One run; holds what its steps share."""

    def __init__(
        self,
        store: Store,
        client: ServiceClient,
        settings: EngineSettings,
        clock: Callable[[], float],
        *,
        guard: Guard | None,
        embed: Embed | None,
        attempt: UpdateAttempt | None,
        facts: DeviceFacts | None,
    ) -> None:
        self._store = store
        self._client = client
        self._settings = settings
        self._clock = clock
        self._guard = guard
        self._embed = embed
        self._attempt = attempt or UpdateAttempt()
        self._keys: tuple[PublicKey, ...] = ()
        self._profile = device_profile(settings.backend, facts or DeviceFacts())
        self._parts_downloaded = self._parts_reused = 0
        self._bytes_downloaded = self._bytes_resumed = 0

    def run(self, root: bytes, wish: PlanWish) -> tuple[Engine, SyncReport]:
        before = registered(self._store, self._client, self._profile, clock=self._clock)
        targets = TrustedTargets(self._client, self._store.tuf_folder, root)
        target, state = self._due(targets, before)
        self._attempt.bundle = target.sha256
        bundle, is_held_back = self._bundle(targets, target, state)
        self._attempt.is_held_back = is_held_back
        plan, state = self._plan(targets, bundle, wish, state)
        engine = switch(
            self._store, state, bundle.digest.hex(), plan, self._settings, guard=self._guard
        )
        was = before.current
        return engine, SyncReport(
            bundle_version=engine.manifest.version,
            plan_version=engine.plan.version,
            is_bundle_new=was is None or was.bundle != engine.pair.bundle,
            is_plan_new=was is None or was.plan != engine.pair.plan,
            is_held_back=is_held_back,
            parts_downloaded=self._parts_downloaded,
            parts_reused=self._parts_reused,
            bytes_downloaded=self._bytes_downloaded,
            bytes_resumed=self._bytes_resumed,
        )

    def _due(self, targets: PublishedTargets, state: DeviceState) -> tuple[TargetInfo, DeviceState]:
        """Return the bundle that is due, and a state without the floors of what was taken back.

        That the assignment was accepted is remembered at once; floors are lowered only together
        with a switch.
        """
        running = b"" if state.current is None else bytes.fromhex(state.current.bundle)
        data = self._client.get_targets(state.model, running)
        if not data:
            return required_target(targets, f"{state.model}/manifest.pb"), state
        rules = AssignmentRules(
            model=state.model,
            device_id=state.device_id,
            minimum_version=state.assignment_version,
            now_s=max(int(self._clock()), state.time_floor_s),
        )
        assignment = accept_assignment(data, keys=self._director_keys(targets), rules=rules)
        target = assigned_target(assignment, targets)
        withdrawn = tuple(digest.hex() for digest in assignment.withdrawn)
        assigned = state.assigned(assignment.version, withdrawn, assignment.issued_at_s)
        if assignment.version > state.assignment_version:
            self._store.save(assigned)
        return target, assigned.without_withdrawn()

    def _director_keys(self, targets: PublishedTargets) -> tuple[PublicKey, ...]:
        """Return the keys that may sign assignments and plans."""
        if not self._keys:
            self._keys = fetch_director_keys(self._client, targets)
        return self._keys

    def _bundle(
        self, targets: PublishedTargets, target: TargetInfo, state: DeviceState
    ) -> tuple[BundleFolder, bool]:
        """Return the bundle to run, complete in the store, and whether it was held back."""
        if state.current is not None and state.held_back == target.sha256:
            return self._store.open_bundle(state.current.bundle), True
        data = fetch_small(self._client, target, MAX_MANIFEST_BYTES)
        manifest = accept_manifest(
            data,
            model=state.model,
            floor=state.bundle_version,
            accepted=accepted_bundles(state),
        )
        accept_items(manifest, state.items_floor)
        absent = self._absent_parts(targets, manifest, target.sha256)
        arrived = [self._arrived(part) for part in absent]
        self._store.make_room(sum(part.length_bytes for part in absent) - sum(arrived), state)
        for part, n_bytes in zip(absent, arrived, strict=True):
            self._fetch_part(part, n_bytes, target.sha256)
        return self._store.open_bundle(self._store.put_manifest(data)), False

    def _absent_parts(
        self, targets: PublishedTargets, manifest: Manifest, bundle: str
    ) -> list[PartInfo]:
        """Return the parts that no installed bundle has; the others are shared from there."""
        for part in manifest.parts:
            accept_part(part, targets.find(f"parts/{part.sha256.hex()}"))
        absent = [p for p in manifest.parts if not self._store.has_part(bundle, p.sha256.hex())]
        self._parts_reused += len(manifest.parts) - len(absent)
        return absent

    def _arrived(self, part: PartInfo) -> int:
        return self._store.downloads.arrived(part.sha256.hex(), part.length_bytes)

    def _fetch_part(self, part: PartInfo, arrived: int, bundle: str) -> None:
        sha256 = part.sha256.hex()
        if arrived < part.length_bytes:
            chunks = self._client.fetch(f"parts/{sha256}", arrived)
            downloads = self._store.downloads
            self._bytes_downloaded += downloads.append(sha256, chunks, part.length_bytes)
        self._store.add_part(bundle, sha256)
        self._parts_downloaded += 1
        self._bytes_resumed += arrived

    def _plan(
        self, targets: PublishedTargets, bundle: BundleFolder, wish: PlanWish, state: DeviceState
    ) -> tuple[bytes, DeviceState]:
        """Return the plan to run, and a state that accepts no older one any more."""
        if self._settings.backend in DEFAULT_PLAN_ONLY:
            return bundle.read(DEFAULT_PLAN), state
        keys = self._director_keys(targets)
        slot = PlanSlot.of(self._store, state, bundle, wish.subject, now_s=int(self._clock()))
        embedding = self._user_embedding(bundle, wish)
        data = self._client.get_plan(slot.request(wish.average_bits, embedding))
        if not data:
            return slot.held or bundle.read(DEFAULT_PLAN), state
        return data, slot.accept(data, state, keys=keys)

    def _user_embedding(self, bundle: BundleFolder, wish: PlanWish) -> CodedEmbedding | None:
        """Return what to tell about the user; nothing for the plan for everybody."""
        z = self._embed(bundle) if self._embed is not None and wish.subject else None
        return None if z is None else CodedEmbedding.of(z)


def _refuse_vain_wish(wish: PlanWish, backend: str) -> None:
    if backend in DEFAULT_PLAN_ONLY and wish != PlanWish():
        raise IncompatibleArtifactError(
            f"the backend {backend!r} runs the default plan only; sync without a subject and "
            "average_bits, or use backend='onnxruntime'"
        )
