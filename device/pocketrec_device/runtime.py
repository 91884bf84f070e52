# SPDX-License-Identifier: Apache-2.0
"""The device runtime: the calls an app makes.

``live`` holds what runs, ``store`` what is installed; the other modules move things from
the network into the store and from there into what runs. Every method may be called from
any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from pocketrec.errors import StoreError
from pocketrec_device.engine import Engine, change_preset
from pocketrec_device.extras import require_libraries
from pocketrec_device.health import typical_work
from pocketrec_device.install import bootstrap, load_engine, roll_back
from pocketrec_device.latency_counter import LatencyCounter
from pocketrec_device.latency_guard import LatencyLimits, check_latency
from pocketrec_device.options import RuntimeOptions, runtime_parts
from pocketrec_device.ranking_calls import RankingCalls
from pocketrec_device.refresh import PlanAge, RefreshPolicy, Verdict, decide, plan_age
from pocketrec_device.refresh_state import RefreshState
from pocketrec_device.settings import EngineSettings
from pocketrec_device.status import Status, SyncReport, read_status
from pocketrec_device.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_device.backends import LayerReport
    from pocketrec_device.facts import DeviceFacts
    from pocketrec_device.tls import Tls
    from pocketrec_device.watching import PlanWatcher, WatchOptions

__all__ = ["Runtime"]

_SOON_S = 24 * 3600.0  # a plan that expires within a day is replaced while there is time


class Runtime(RankingCalls):
    """Ranks candidates for one user, offline, from what a store holds.

    ``Runtime.create`` and ``Runtime.open`` are the usual ways to get one.

    Args:
        store: Where bundles and plans are.
        settings: How to compute.
        latency: How slow a new bundle may be before it is refused.
        refresh: When ``sync`` is due.
        facts: What to tell servers of this device.
        report_status: Whether to tell servers how updates went.
        clock: Unix seconds; decides whether plans have expired.
    """

    def __init__(
        self,
        store: Store,
        settings: EngineSettings | None = None,
        *,
        latency: LatencyLimits | None = None,
        refresh: RefreshPolicy | None = None,
        facts: DeviceFacts | None = None,
        report_status: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings or EngineSettings()
        self._latency = latency or LatencyLimits()
        self._refresh = refresh or RefreshPolicy()
        self._refresh_state = RefreshState()
        self._facts = facts
        self._clock = clock
        super().__init__(LatencyCounter() if report_status else None)
        self._turn = threading.Lock()  # of this runtime's writers; other processes see the store's
        self._problem = ""

    @classmethod
    def create(
        cls,
        store_path: str | Path,
        *,
        model: str,
        root: bytes | None = None,
        **options: Unpack[RuntimeOptions],
    ) -> Self:
        """Make a store, or open the one that is there: fit for every start of an app.

        Nothing that is installed is touched. While there is nothing that can be used,
        ``is_ready`` is False and ``problem`` says why; ``sync`` and ``bootstrap`` help.

        Args:
            store_path: The folder; made when absent.
            model: The model line to follow, e.g. ``"demo"``.
            root: TUF root metadata the app was shipped with; ``sync`` needs it.
            **options: See ``RuntimeOptions``.

        Raises:
            StoreError: The store follows another model, trusts another root, or its state
                is damaged.
            StoreLockedError: The store must be made, and somebody else is writing to it.
            StoreAccessError: The folder cannot be read or written.
            ArtifactError: What is installed needs another release.
            BackendError: The backend cannot be made.
            ConfigError: There is no such choice, ``model`` is no name, or ``root`` is no
                TUF root metadata.
        """
        runtime = cls(**runtime_parts(store_path, options))
        runtime._store.create(model, root)
        try:
            runtime.load()
        except StoreError as exc:
            runtime._problem = str(exc)
        return runtime

    @classmethod
    def open(cls, store_path: str | Path, **options: Unpack[RuntimeOptions]) -> Self:
        """Open a store that has something installed; needs no network, and writes nothing.

        Args:
            store_path: The folder.
            **options: See ``RuntimeOptions``.

        Raises:
            StoreError: There is no store, nothing is installed, or all of it is damaged.
            ArtifactError: What is installed needs another release.
            BackendError: The backend cannot be made, or is not strict enough.
            ConfigError: There is no such choice.
        """
        runtime = cls(**runtime_parts(store_path, options))
        runtime.load()
        return runtime

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the engine and forget the history; the store stays."""
        self._live.close()

    @property
    def is_ready(self) -> bool:
        """Whether something is installed, so that ``rerank`` works."""
        return self._live.is_ready

    @property
    def problem(self) -> str:
        """Why the current pair does not run; empty when it does."""
        return self._problem

    def load(self) -> None:
        """Load what the store says is current: after another process has synced.

        Raises:
            StoreError: There is no store, nothing is installed, or all of it is damaged.
            ArtifactError: What is installed needs another release.
            BackendError: The backend cannot be made.
        """
        engine, problem = load_engine(self._store, self._settings)
        self._live.adopt(engine)
        self._problem = problem

    def use_preset(self, preset: str) -> None:
        """Change what the tiers of the plan mean, without a download; the history stays.

        Args:
            preset: ``"battery_saver"``, ``"balanced"`` or ``"full"``.

        Raises:
            ConfigError: There is no such preset.
            StoreError: Nothing is installed yet, or it is damaged.
            BackendError: The backend cannot be made, or runs the default plan only.
        """
        running = self._live.engine
        if running is None:
            raise StoreError("nothing is loaded; sync, or bootstrap from a packaged bundle")
        bundle = self._store.open_bundle(running.pair.bundle)
        self._adopt(change_preset(running, bundle, preset))
        self._settings = replace(self._settings, preset=preset)

    def report(self) -> tuple[LayerReport, ...]:
        """Return, per coded matrix, what the plan asks, what is kept, and what computes.

        Raises:
            StoreError: Nothing is installed yet.
        """
        return self._live.snapshot(with_seen=False).engine.backend.report()

    def status(self) -> Status:
        """Return what the store holds.

        Raises:
            StoreError: The store's state is damaged.
        """
        return read_status(self._store, int(self._clock()))

    def bootstrap(self, bundle_folder: str | Path) -> bool:
        """Install a bundle that came with the app, unless the store has a newer one.

        Needs no network; fit for every start of an app.

        Args:
            bundle_folder: A folder with ``manifest.pb`` and ``parts/``. The app's own
                packaging vouches for it.

        Returns:
            Whether another bundle runs now; False when this one or a newer one is
            installed already, or it is held back after a rollback.

        Raises:
            RollbackError: The version was accepted before, with other content.
            ArtifactError: The bundle cannot be used; what ran before still runs.
            StoreError: What is installed is newer, and damaged: only a sync can help.
            StoreLockedError: Another process is writing to the store.
            HealthCheckError: It does not prove itself on this device, or is far slower
                than what runs.
            BackendError: The backend cannot be made.
            DiskFullError: There is no room for it; nothing was written.
            StoreAccessError: The store cannot be written.
            OSError: The packaged bundle cannot be read.
        """
        with self._turn, self._store.writing():
            engine = bootstrap(
                self._store, Path(bundle_folder), self._settings, guard=self._refuse_if_slow
            )
        if engine is None:
            if not self.is_ready:
                self.load()
            return False
        self._adopt(engine)
        return True

    def sync(
        self,
        target: str,
        *,
        subject: str = "",
        average_bits: float | None = None,
        tls: Tls | None = None,
        deadline_s: float = 10.0,
    ) -> SyncReport:
        """Fetch what is newer, verify it, and switch; on any failure all stays as it was.

        Item ids stay here. With a subject, ``user_embedding`` is told, if there is one; with
        ``report_status``, how it went.

        Args:
            target: ``"host:port"`` of a delivery server.
            subject: Pseudonym of the user; empty = the plan for everybody.
            average_bits: Average bits per coded weight; None = the server decides.
            tls: How to encrypt; None = TLS with the system's roots, or plain text when
                the server is this machine.
            deadline_s: Seconds each call may take; for a download, seconds without progress.

        Raises:
            ArtifactError: Something that was offered cannot be accepted.
            ServiceError: The server could not be asked, or refused.
            StoreError: The store has no root of trust, is damaged, or is locked.
            BackendError: The backend cannot be made, or a library for syncing is absent.
            ConfigError: An argument is out of its range.
            DiskFullError: There is no room for a new bundle; nothing was fetched.
            StoreAccessError: The store cannot be written.
        """
        require_libraries("grpc", "tuf", "cryptography", purpose="sync", extras="device")
        from pocketrec_device.online import Link, sync_over
        from pocketrec_device.sync import PlanWish

        wish = PlanWish(subject=subject, average_bits=average_bits or 0.0)
        self._refresh_state.attempt()
        with self._turn:
            engine, report = sync_over(
                Link(target=target, tls=tls, deadline_s=deadline_s),
                self._store,
                wish,
                self._settings,
                clock=self._clock,
                guard=self._refuse_if_slow,
                embed=self._live.embedding_under,
                facts=self._facts,
                latencies=self._latencies,
            )
        self._adopt(engine)
        sent = self.user_embedding() if subject else None
        self._refresh_state.succeed(self._live.n_observed, self._live.snapshot().h, sent)
        return report

    def watch(self, target: str, **options: Unpack[WatchOptions]) -> PlanWatcher:
        """Install pushed plans as they come, on a thread of its own, until it is closed.

        Args:
            target: ``"host:port"`` of a delivery server.
            **options: See ``WatchOptions``: as for ``sync``, and what to do about new bundles.

        Raises:
            IncompatibleArtifactError: The backend runs the default plan only.
            BackendError: A library for syncing is absent.
            ConfigError: An option is out of its range.
        """
        require_libraries("grpc", "tuf", "cryptography", purpose="watch", extras="device")
        from pocketrec_device.watching import WatchedDevice, start_watching

        device = WatchedDevice(
            store=self._store,
            settings=lambda: self._settings,
            guard=self._refuse_if_slow,
            adopt=self._adopt,
            embed=self._live.embedding_under,
            facts=self._facts,
            clock=self._clock,
            turn=self._turn,
            sync=self.sync,
            latencies=self._latencies,
        )
        return start_watching(device, target, options)

    def user_embedding(self) -> NDArray[np.float32] | None:
        """Return what a ``sync`` with a subject tells about the user, before it is rounded.

        Returns:
            (D,) float32; None without a history, or if the bundle has no extractor.

        Raises:
            StoreError: Nothing is installed yet.
            BackendError: Inference failed.
        """
        return self._live.user_embedding()

    def refresh_due(
        self, *, is_session_start: bool = False, is_network_free: bool = True
    ) -> Verdict:
        """Return whether the refresh policy wants a ``sync`` now, and why or why not.

        Args:
            is_session_start: Whether the user has just begun to use the app.
            is_network_free: Whether a download costs the user nothing, such as on Wi-Fi.

        Raises:
            StoreError: There is no store, or its state is damaged.
        """
        engine, n_events = self._live.engine, self._live.n_observed
        facts = self._refresh_state.facts(
            n_events=n_events,
            h=None if engine is None else self._live.snapshot().h,
            z=self.user_embedding() if engine and self._refresh_state.has_embedding else None,
            plan=PlanAge.ABSENT if engine is None else self._plan_age(engine),
            is_session_start=is_session_start,
            is_network_free=is_network_free,
        )
        return decide(self._refresh, facts)

    def rollback(self, bundle: str = "") -> None:
        """Go back to the pair that ran before; ``sync`` will not undo it with the same bundle.

        Args:
            bundle: Digest, in hex, of an older bundle that was kept (``status().kept``);
                empty = the previous one.

        Raises:
            StoreError: There is no such pair.
            StoreLockedError: Another process is writing to the store.
            ArtifactError: The pair cannot be used; the current one stays.
            BackendError: The backend cannot be made.
            StoreAccessError: The store cannot be written.
        """
        with self._turn, self._store.writing():
            engine = roll_back(self._store, self._settings, bundle)
        self._adopt(engine)

    def _adopt(self, engine: Engine) -> None:
        self._live.adopt(engine)
        self._problem = ""

    def _refuse_if_slow(self, engine: Engine) -> None:
        """Raise ``HealthCheckError`` if an engine is far slower than the one that runs."""
        running = self._live.engine
        old = None if running is None else typical_work(running)
        check_latency(typical_work(engine), old, self._latency)

    def _plan_age(self, engine: Engine) -> PlanAge:
        now_s = max(self._clock(), self._store.load().time_floor_s)
        return plan_age(engine.plan.expires_at_s, now_s, soon_s=_SOON_S)
