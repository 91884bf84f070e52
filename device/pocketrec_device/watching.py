# SPDX-License-Identifier: Apache-2.0
"""Watches a server for pushed plans on a thread of its own, and installs what comes.

A plan is accepted by the rules of a sync: its signature, its model and subject, its version and
expiry, then the health check and the switch. Nothing that goes wrong here reaches the app: what
ran goes on, and the watcher dials again, the later the more often it failed.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypedDict

from pocketrec.errors import (
    IncompatibleArtifactError,
    IntegrityError,
    PocketRecError,
    RejectedError,
    RollbackError,
    StoreError,
    StoreLockedError,
)
from pocketrec_device.backends import DEFAULT_PLAN_ONLY
from pocketrec_device.extraction import CodedEmbedding
from pocketrec_device.facts import DeviceFacts, device_profile
from pocketrec_device.install import switch
from pocketrec_device.online import Link
from pocketrec_device.plan_slot import PlanSlot
from pocketrec_device.published import fetch_director_keys
from pocketrec_device.registration import forget_token, registered
from pocketrec_device.reporting import UpdateAttempt, following
from pocketrec_device.sync import PlanWish
from pocketrec_device.transport import ServiceClient
from pocketrec_device.tuf_client import TrustedTargets
from pocketrec_device.watch_mark import WatchMark

if TYPE_CHECKING:
    from pocketrec.signing import PublicKey
    from pocketrec_device.engine import Engine, EngineSettings
    from pocketrec_device.install import Guard
    from pocketrec_device.latency_counter import LatencyCounter
    from pocketrec_device.plan_feed import FeedEvent
    from pocketrec_device.store import Store
    from pocketrec_device.sync import Embed
    from pocketrec_device.tls import Tls

__all__ = ["PlanWatcher", "WatchOptions", "WatchStatus", "WatchedDevice", "start_watching"]

_LOG = logging.getLogger(__name__)
_DEADLINE_S = 10.0
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0
_SILENCE_S = 120.0  # a server says something every half minute
_KEYS_LIVE_S = 24 * 3600.0  # as long as the timestamp that vouches for them
_LOCK_WAIT_S = 30.0
_LOCK_LOOK_S = 0.2
# What waiting a little does not help: another stream of this device, or a request that is refused.
_TAKEN_OVER = "ABORTED"


class WatchOptions(TypedDict, total=False):
    """How to watch; all may be left out.

    Keys:
        subject: Pseudonym of the user; empty = the plan for everybody.
        average_bits: Average bits per coded weight; None = the server decides.
        tls: How to encrypt; as for ``Runtime.sync``.
        deadline_s: Seconds each call but the stream may take.
        on_targets_changed: Called on the watcher's thread when another bundle may be due; None
            syncs, with the same subject and bits.
    """

    subject: str
    average_bits: float | None
    tls: Tls | None
    deadline_s: float
    on_targets_changed: Callable[[], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedDevice:
    """What a watcher needs of a runtime.

    Args:
        store: Where plans go.
        settings: Returns how to build an engine now.
        guard: Asked before a pair that is not the current one goes live.
        adopt: Lets an engine run.
        embed: Gives the user embedding to send for a subject's plan.
        facts: What the app declares of this device.
        clock: Unix seconds.
        turn: Held while the store is written, so that a runtime's own calls wait.
        sync: ``Runtime.sync``.
        latencies: How long calls took since the last report; None = nothing is reported.
    """

    store: Store
    settings: Callable[[], EngineSettings]
    guard: Guard
    adopt: Callable[[Engine], None]
    embed: Embed
    facts: DeviceFacts | None
    clock: Callable[[], float]
    turn: threading.Lock
    sync: Callable[..., object]
    latencies: LatencyCounter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatus:
    """What a watcher has done so far.

    Args:
        is_connected: Whether the server has said something on the stream that is open.
        sequence: Of the newest order that was acted upon; 0 = none.
        n_streams: Streams that the server answered.
        n_plans: Plans that were installed.
        n_known: Plans that came again, or after a newer one.
        n_refused: Plans that were not accepted, or did not prove themselves.
        n_syncs: Times that another bundle was said to be due.
        n_failures: Streams, syncs and dials that failed.
        problem: What went wrong last; empty when nothing has since the server last spoke.
    """

    is_connected: bool = False
    sequence: int = 0
    n_streams: int = 0
    n_plans: int = 0
    n_known: int = 0
    n_refused: int = 0
    n_syncs: int = 0
    n_failures: int = 0
    problem: str = ""


class PlanWatcher:
    """Watches until it is closed; ``Runtime.watch`` makes one, and it starts by itself.

    Args:
        link: How to reach the server.
        wish: What plan the app wants.
        device: What to bring up to date.
        on_targets_changed: Called when another bundle may be due; None syncs.

    Raises:
        IncompatibleArtifactError: The backend runs the default plan only.
        ConfigError: The address cannot be dialled.

    Example:
        >>> with runtime.watch("cloud.example:443", subject="u-17") as watcher:  # doctest: +SKIP
        ...     watcher.status().is_connected
        True
    """

    def __init__(
        self,
        link: Link,
        wish: PlanWish,
        device: WatchedDevice,
        *,
        on_targets_changed: Callable[[], None] | None = None,
    ) -> None:
        backend = device.settings().backend
        if backend in DEFAULT_PLAN_ONLY:
            raise IncompatibleArtifactError(
                f"the backend {backend!r} runs the default plan only; sync instead"
            )
        ServiceClient(link.target, tls=link.tls, deadline_s=link.deadline_s).close()
        self._link, self._wish, self._device = link, wish, device
        self._on_targets_changed = on_targets_changed or self._sync
        self._keys: tuple[float, tuple[PublicKey, ...]] | None = None
        self._n_failed_in_turn = 0
        self._status = WatchStatus()
        self._hang_up: Callable[[], None] | None = None
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="pocketrec-watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and stop; returns once nothing is being installed any more."""
        self._stopping.set()
        with self._turn:
            hang_up = self._hang_up
        if hang_up is not None:
            hang_up()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def status(self) -> WatchStatus:
        """Return what was done so far."""
        return self._status

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause_s = self._watch_once()
            except RejectedError as exc:
                pause_s = self._after_refusal(exc)
            except (PocketRecError, OSError) as exc:
                pause_s = self._after_failure(exc)
            except Exception as exc:  # noqa: BLE001  the thread has to live on
                _LOG.exception("watching failed in a way that nobody thought of")
                pause_s = self._after_failure(exc)
            self._note(is_connected=False)
            self._stopping.wait(pause_s)

    def _watch_once(self) -> float:
        """Follow one stream to its end, and return how long to wait for the next one."""
        link = self._link
        with ServiceClient(link.target, tls=link.tls, deadline_s=link.deadline_s) as client:
            with self._turn:
                self._hang_up = client.close
            if self._stopping.is_set():
                return 0.0
            bundle = self._prepare(client)
            for event in self._events(client, bundle):
                self._heard()
                if event.pause_s is not None:
                    return event.pause_s
                if event.plan:
                    self._install(event.plan, client)
                if event.are_targets_changed:
                    self._follow_targets()
                self._remember(event.sequence, bundle)
                if self._stopping.is_set() or self._bundle() != bundle:
                    return 0.0
        return self._spread(_FIRST_PAUSE_S)

    def _prepare(self, client: ServiceClient) -> str:
        """Become known to the server, learn who may sign plans, and return what runs."""
        device = self._device
        profile = device_profile(device.settings().backend, device.facts or DeviceFacts())
        with self._writing():
            registered(device.store, client, profile, clock=device.clock)
            if self._keys is None or self._keys[0] < device.clock():
                self._load_keys(client)
        if not self._bundle():
            self._sync()
        return self._bundle()

    def _load_keys(self, client: ServiceClient) -> None:
        """Learn who may sign plans; the store is being written."""
        store = self._device.store
        targets = TrustedTargets(client, store.tuf_folder, store.root())
        keys = fetch_director_keys(client, targets)
        self._keys = (self._device.clock() + _KEYS_LIVE_S, keys)

    def _events(self, client: ServiceClient, bundle: str) -> Iterator[FeedEvent]:
        store, wish, state = self._device.store, self._wish, self._device.store.load()
        slot = self._slot(bundle)
        z = self._device.embed(slot.bundle) if wish.subject else None
        embedding = None if z is None else CodedEmbedding.of(z)
        mark = state.watched
        sequence = 0
        if mark is not None and slot.held is not None:
            sequence = mark.sequence_for(client.target, wish.subject, bundle)
        self._note(sequence=sequence)
        return client.watch_plans(
            slot.request(wish.average_bits, embedding),
            model_name=store.load().model,
            last_sequence=sequence,
            silence_s=_SILENCE_S,
        )

    def _slot(self, bundle: str) -> PlanSlot:
        device, store = self._device, self._device.store
        return PlanSlot.of(
            store,
            store.load(),
            store.open_bundle(bundle),
            self._wish.subject,
            now_s=int(device.clock()),
        )

    def _install(self, data: bytes, client: ServiceClient) -> None:
        """Install a plan that came, or count why not."""
        try:
            with following(
                self._device.store,
                client,
                UpdateAttempt(bundle=self._bundle()),
                self._device.latencies,
            ):
                is_new = self._accept_by_newest_keys(data, client)
        except (PocketRecError, OSError) as exc:
            if isinstance(exc, StoreError):
                raise  # it may be accepted once the store can be written
            _LOG.warning("a plan that was pushed is not installed: %s", exc)
            self._note(n_refused=self._status.n_refused + 1, problem=str(exc))
            return
        if is_new:
            self._note(n_plans=self._status.n_plans + 1)
        else:
            self._note(n_known=self._status.n_known + 1)

    def _accept_by_newest_keys(self, data: bytes, client: ServiceClient) -> bool:
        try:
            return self._accept(data)
        except IntegrityError:  # perhaps the director has another key now
            with self._writing():
                self._load_keys(client)
            return self._accept(data)

    def _accept(self, data: bytes) -> bool:
        """Verify a plan and let it run; False when it, or a newer one, is installed already."""
        device, store = self._device, self._device.store
        keys = () if self._keys is None else self._keys[1]
        with self._writing():
            state = store.load()
            if state.current is None:
                raise StoreError("nothing is installed that a plan could be for; sync")
            bundle = state.current.bundle
            slot = self._slot(bundle)
            if slot.held == data:
                return False
            try:
                state = slot.accept(data, state, keys=keys)
            except RollbackError:  # a sync was faster than the stream
                return False
            engine = switch(store, state, bundle, data, device.settings(), guard=device.guard)
        device.adopt(engine)
        return True

    def _follow_targets(self) -> None:
        """Sync, or let the app do so."""
        self._note(n_syncs=self._status.n_syncs + 1)
        try:
            self._on_targets_changed()
        except (PocketRecError, OSError) as exc:
            _LOG.warning("a sync that the server asked for failed: %s", exc)
            self._note(n_failures=self._status.n_failures + 1, problem=str(exc))
        self._keys = None  # who may sign may have changed with the bundle

    def _sync(self) -> None:
        """Bring bundle and plan up to date."""
        link, wish = self._link, self._wish
        self._device.sync(
            link.target,
            subject=wish.subject,
            average_bits=wish.average_bits or None,
            tls=link.tls,
            deadline_s=link.deadline_s,
        )

    def _remember(self, sequence: int, bundle: str) -> None:
        """Remember what was acted upon, if it is more than before."""
        if sequence == self._status.sequence:
            return
        mark = WatchMark(
            server=self._link.target, subject=self._wish.subject, bundle=bundle, sequence=sequence
        )
        store = self._device.store
        with self._writing():
            store.save(replace(store.load(), watched=mark))
        self._note(sequence=sequence)

    def _heard(self) -> None:
        if not self._status.is_connected:
            self._note(is_connected=True, n_streams=self._status.n_streams + 1, problem="")
        self._n_failed_in_turn = 0

    def _bundle(self) -> str:
        """Return the digest of the bundle that runs; empty = none."""
        current = self._device.store.load().current
        return "" if current is None else current.bundle

    def _after_refusal(self, exc: RejectedError) -> float:
        pause_s = self._after_failure(exc)
        if exc.code == "UNAUTHENTICATED":
            try:
                with self._writing():
                    forget_token(self._device.store)
            except (PocketRecError, OSError):
                _LOG.warning("a token that does not count could not be dropped", exc_info=True)
            return pause_s
        return self._spread(_LONGEST_PAUSE_S)

    def _after_failure(self, exc: Exception) -> float:
        """Count a failure, and return a random pause, longer with each one in a row."""
        if self._stopping.is_set():
            return 0.0
        self._note(n_failures=self._status.n_failures + 1, problem=str(exc))
        _LOG.info("watching goes on later: %s", exc)
        if getattr(exc, "code", "") == _TAKEN_OVER:
            return self._spread(_LONGEST_PAUSE_S)
        most_s = min(_FIRST_PAUSE_S * 2.0**self._n_failed_in_turn, _LONGEST_PAUSE_S)
        self._n_failed_in_turn = min(self._n_failed_in_turn + 1, 16)
        return self._spread(most_s)

    def _spread(self, most_s: float) -> float:
        return random.uniform(0.0, most_s)  # noqa: S311  spreads load, keeps no secret

    def _note(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]  # its own fields

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write the store; waits for whoever does so now.

        Raises:
            StoreLockedError: Another process takes too long, or the watcher is closed meanwhile.
        """
        deadline_s = time.monotonic() + _LOCK_WAIT_S
        with self._device.turn, ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._device.store.writing())
                    break
                except StoreLockedError:
                    if self._stopping.wait(_LOCK_LOOK_S) or time.monotonic() > deadline_s:
                        raise
            yield


def start_watching(device: WatchedDevice, target: str, options: WatchOptions) -> PlanWatcher:
    """Return a watcher that has started.

    Args:
        device: What to bring up to date.
        target: ``"host:port"`` of a delivery server.
        options: How to watch.

    Raises:
        IncompatibleArtifactError: The backend runs the default plan only.
        ConfigError: An option is out of its range.
        TypeError: There is no such option.
    """
    unknown = options.keys() - WatchOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"watch: no such options: {', '.join(sorted(unknown))}")
    return PlanWatcher(
        Link(
            target=target,
            tls=options.get("tls"),
            deadline_s=options.get("deadline_s", _DEADLINE_S),
        ),
        PlanWish(
            subject=options.get("subject", ""),
            average_bits=options.get("average_bits") or 0.0,
        ),
        device,
        on_targets_changed=options.get("on_targets_changed"),
    )
