# SPDX-License-Identifier: Apache-2.0
"""The device runtime: the calls an app makes.

``live`` holds what runs, ``store`` what is installed; the other modules move things from
the network into the store and from there into what runs. Every method may be called from
any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pocketrec.errors import ConfigError, StoreError
from pocketrec_device.engine import Engine, EngineSettings
from pocketrec_device.extras import require_libraries
from pocketrec_device.install import bootstrap, load_engine, roll_back
from pocketrec_device.live import LiveSession
from pocketrec_device.ranking import Candidates, Ranking
from pocketrec_device.status import Status, SyncReport, read_status
from pocketrec_device.store import Store

if TYPE_CHECKING:
    from pocketrec_device.backends import LayerReport
    from pocketrec_device.tls import Tls

__all__ = ["Runtime"]


class Runtime:
    """Ranks candidates for one user, offline, from what a store holds.

    ``Runtime.create`` and ``Runtime.open`` are the usual ways to get one.

    Args:
        store: Where bundles and plans are.
        settings: How to compute.
        clock: Unix seconds; decides whether plans have expired.
    """

    def __init__(
        self,
        store: Store,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings or EngineSettings()
        self._clock = clock
        self._live = LiveSession()
        self._problem = ""

    @classmethod
    def create(
        cls,
        store_path: str | Path,
        *,
        model: str,
        root: bytes | None = None,
        backend: str = "onnxruntime",
        threads: int = 1,
        strict: bool = False,
    ) -> Self:
        """Make a store, or open the one that is there: fit for every start of an app.

        Nothing that is installed is touched. While there is nothing that can be used,
        ``is_ready`` is False and ``problem`` says why; ``sync`` and ``bootstrap`` help.

        Args:
            store_path: The folder; made when absent.
            model: The model line to follow, e.g. ``"demo"``.
            root: TUF root metadata the app was shipped with; ``sync`` needs it.
            backend: As for ``open``.
            threads: As for ``open``.
            strict: As for ``open``.

        Raises:
            StoreError: The store follows another model, or its state is damaged.
            StoreLockedError: The store must be made, and somebody else is writing to it.
            ArtifactError: What is installed needs another release.
            BackendError: The backend cannot be made.
            ConfigError: There is no such backend, ``model`` is no name, or ``root`` is no
                TUF root metadata.
            OSError: The folder cannot be written.
        """
        settings = EngineSettings(backend=backend, threads=threads, is_strict=strict)
        runtime = cls(Store(store_path), settings)
        runtime._store.create(model, root)
        try:
            runtime.load()
        except StoreError as exc:
            runtime._problem = str(exc)
        return runtime

    @classmethod
    def open(
        cls,
        store_path: str | Path,
        *,
        backend: str = "onnxruntime",
        threads: int = 1,
        strict: bool = False,
    ) -> Self:
        """Open a store that has something installed; needs no network.

        Args:
            store_path: The folder.
            backend: ``"onnxruntime"``, ``"executorch"`` or ``"numpy"``.
            threads: Threads per call, from 1.
            strict: Refuse layers that do not compute in the widths the plan asks for.

        Raises:
            StoreError: There is no store, nothing is installed, or all of it is damaged.
            ArtifactError: What is installed needs another release.
            BackendError: The backend cannot be made, or is not strict enough.
            ConfigError: There is no such backend.
        """
        settings = EngineSettings(backend=backend, threads=threads, is_strict=strict)
        runtime = cls(Store(store_path), settings)
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

    def observe(self, item_id: str) -> bool:
        """Take in one event.

        Args:
            item_id: What the user interacted with.

        Returns:
            Whether the item table knows the item; events on unknown items change nothing.

        Raises:
            StoreError: Nothing is installed yet.
            BackendError: Inference failed; the event was not taken in.
        """
        return self._live.observe((item_id,)) == 1

    def observe_many(self, item_ids: Sequence[str]) -> int:
        """Take in events, oldest first; the same as observing them one by one, but faster.

        Args:
            item_ids: What the user interacted with.

        Returns:
            How many of them the item table knows; the others change nothing.

        Raises:
            ConfigError: ``item_ids`` is one string.
            StoreError: Nothing is installed yet.
            BackendError: Inference failed; the events before it were taken in.
        """
        if isinstance(item_ids, str):
            raise ConfigError(f"item_ids: expected a sequence of item ids, got {item_ids!r}")
        return self._live.observe(item_ids)

    def reset(self) -> None:
        """Forget the history: another user, or a new session.

        Raises:
            StoreError: Nothing is installed yet.
        """
        self._live.reset()

    def rerank(
        self,
        candidates: Sequence[str],
        k: int,
        *,
        server_scores: Sequence[float] | None = None,
        server_weight: float = 0.0,
        exclude_seen: bool = False,
    ) -> Ranking:
        """Return the k best candidates for the user now; ``ranking`` has the rules.

        Args:
            candidates: Item ids, in the order that decides ties.
            k: How many to return, from 1; all when there are fewer.
            server_scores: One score per candidate. They rank alone while there is no
                history, and are blended in by ``server_weight`` afterwards.
            server_weight: ``score = device score + server_weight * server score``.
            exclude_seen: Leave out what is among the last L events.

        Raises:
            ConfigError: An argument is out of its range.
            StoreError: Nothing is installed yet.
            BackendError: Inference failed.
        """
        now = self._live.snapshot(with_seen=exclude_seen)
        checked = Candidates.of(
            candidates, server_scores=server_scores, server_weight=server_weight, excluded=now.seen
        )
        return now.rank(checked, k)

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
            BackendError: The backend cannot be made.
            OSError: The store cannot be written.
        """
        with self._store.writing():
            engine = bootstrap(self._store, Path(bundle_folder), self._settings)
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
            OSError: The store cannot be written.
        """
        require_libraries("grpc", "tuf", "cryptography", purpose="sync", extras="device")
        from pocketrec_device.sync import PlanWish, synchronise
        from pocketrec_device.transport import ServiceClient

        wish = PlanWish(subject=subject, average_bits=average_bits or 0.0)
        with (
            self._store.writing(),
            ServiceClient(target, tls=tls, deadline_s=deadline_s) as client,
        ):
            engine, report = synchronise(
                self._store, client, wish, self._settings, clock=self._clock
            )
        self._adopt(engine)
        return report

    def rollback(self) -> None:
        """Go back to the pair that ran before; ``sync`` will not undo it with the same bundle.

        Raises:
            StoreError: There is no previous pair.
            StoreLockedError: Another process is writing to the store.
            ArtifactError: The previous pair cannot be used; the current one stays.
            BackendError: The backend cannot be made.
            OSError: The store cannot be written.
        """
        with self._store.writing():
            engine = roll_back(self._store, self._settings)
        self._adopt(engine)

    def _adopt(self, engine: Engine) -> None:
        self._live.adopt(engine)
        self._problem = ""
