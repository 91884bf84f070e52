# SPDX-License-Identifier: Apache-2.0
"""Every kind of update a store goes through, to be run again and again and cut short.

All of it can be pickled, so that other processes can be killed at it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.device.offline_service import OfflineService
from tests.device.unharmed import CANDIDATES, HISTORY

from pocketrec.files import SYSTEM_DISK, Disk
from pocketrec_device import Runtime
from pocketrec_device.engine import EngineSettings
from pocketrec_device.install import bootstrap, roll_back
from pocketrec_device.state import Pair
from pocketrec_device.store import Store
from pocketrec_device.sync import PlanWish, synchronise

__all__ = ["NUMPY", "Update", "bring_up_to_date", "go_back", "install", "running"]

NUMPY = EngineSettings(backend="numpy")


@dataclass(frozen=True)
class Update:
    """What may be cut short.

    Args:
        before: The store as it is before; nothing is there when it does not exist.
        run: Brings a store up to date.
        max_kept_bytes: What older pairs may take.
    """

    before: Path
    run: Callable[[Store], None]
    max_kept_bytes: int = 0

    def start(self, folder: Path, disk: Disk = SYSTEM_DISK) -> Store:
        """Return a copy of the store as it is before."""
        if self.before.exists():
            shutil.copytree(self.before, folder, symlinks=True, dirs_exist_ok=True)
        return self.open(folder, disk)

    def open(self, folder: Path, disk: Disk = SYSTEM_DISK) -> Store:
        """Return the store in a folder."""
        return Store(folder, disk=disk, max_kept_bytes=self.max_kept_bytes)

    def pairs(self, folder: Path) -> tuple[Pair | None, Pair]:
        """Return the pair that runs before, and the one that runs afterwards."""
        store = self.start(folder)
        old = running(store)
        self.run(store)
        new = running(store)
        assert new is not None
        assert new != old
        return old, new


def install(store: Store, root: bytes, packaged: Path) -> None:
    """Make a store if there is none, and install a packaged bundle."""
    store.create("demo", root)
    with store.writing():
        bootstrap(store, packaged, NUMPY)


def bring_up_to_date(store: Store, service: OfflineService) -> None:
    """Fetch bundle and plan."""
    with store.writing():
        synchronise(store, service, PlanWish(subject="ann"), NUMPY, clock=time.time)


def go_back(store: Store, bundle: str) -> None:
    """Go back to a bundle, or to the previous one, unless that is done already."""
    with store.writing():
        if not store.load().held_back:
            roll_back(store, NUMPY, bundle)


def running(store: Store) -> Pair | None:
    """Return the pair that a restart runs, after it has ranked; None if there is none."""
    if not store.exists() or store.load().current is None:
        return None
    with Runtime.open(store.path, backend="numpy") as runtime:
        runtime.observe_many(HISTORY)
        ranking = runtime.rerank(CANDIDATES, len(CANDIDATES))
        problem, status = runtime.problem, runtime.status()
    assert len(set(ranking.scores)) == len(CANDIDATES)
    assert problem == ""
    assert status.problems == ()  # of the previous pair either
    return store.load().current
