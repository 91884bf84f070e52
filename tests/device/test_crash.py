# SPDX-License-Identifier: Apache-2.0
"""An update that ends at any of its writes, flushes and renames leaves a pair that ranks.

Every update is run once for each operation it makes on disk, and fails at that one. What
a restart finds must be the old pair or the new, verified and without a complaint, and the
update must go through when it is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.device.faulty_disk import CountingDisk, Cut, CutDisk, RefusingDisk, Survivors
from tests.device.offline_service import OfflineService
from tests.device.updates import (
    Update,
    bring_up_to_date,
    go_back,
    install,
    running,
)

from pocketrec.errors import DiskFullError, StoreReadOnlyError
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment, TinyModel

MakeBundle = Callable[..., BundleFolder]
KINDS = ("first bootstrap", "bootstrap", "sync", "rollback", "return")
SAMPLED = 9  # every so many operations of an update are killed for real, unless all are

thoroughness = pytest.mark.parametrize(
    "is_thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "thorough"]
)


@pytest.fixture
def make_update(
    tmp_path: Path,
    deployment: Deployment,
    model: TinyModel,
    other_model: TinyModel,
    bundle: BundleFolder,
    make_bundle: MakeBundle,
) -> Callable[[str], Update]:
    """Makes an update of a kind."""
    newer = make_bundle(version=2, seed=1)
    max_kept_bytes = 2**20
    before = Store(tmp_path / "before", max_kept_bytes=max_kept_bytes)

    def make(kind: str) -> Update:
        if kind != "first bootstrap":
            install(before, deployment.root, bundle.path)
        match kind:
            case "sync":
                service = OfflineService(deployment.config, model.mixed_plan(version=1))
                bring_up_to_date(before, service)
                deployment.publish(newer)
                service.plan = other_model.mixed_plan(version=2)
                return Update(before.path, partial(bring_up_to_date, service=service))
            case "rollback":
                install(before, deployment.root, newer.path)
                return Update(before.path, partial(go_back, bundle=""))
            case "return":
                install(before, deployment.root, newer.path)
                install(before, deployment.root, make_bundle(version=3, seed=2).path)
                run = partial(go_back, bundle=bundle.digest.hex())
                return Update(before.path, run, max_kept_bytes)
            case "bootstrap":
                newer_number = make_bundle(version=2)
                run = partial(install, root=deployment.root, packaged=newer_number.path)
                return Update(before.path, run)
        return Update(before.path, partial(install, root=deployment.root, packaged=newer.path))

    return make


@pytest.fixture(params=KINDS)
def update(request: pytest.FixtureRequest, make_update: Callable[[str], Update]) -> Update:
    """Each kind of update there is."""
    return make_update(request.param)


def outcome(update: Update, store: Store) -> OSError | None:
    """Return what an update meets."""
    try:
        update.run(store)
    except OSError as exc:
        return exc
    return None


@thoroughness
class TestEveryOperation:
    def test_may_be_the_last(self, update: Update, tmp_path: Path, *, is_thorough: bool) -> None:
        """Killed or without power at any operation: what was not flushed may be gone."""
        old, new = update.pairs(tmp_path / "whole")

        for fatal in itertools.count(1):
            work = tmp_path / f"work-{fatal}"
            update.start(work)
            disk = CutDisk(work, fatal)
            with contextlib.suppress(Cut):
                update.run(update.open(work, disk))
            for number, survivors in enumerate(Survivors):
                rest = update.open(disk.restart(survivors, tmp_path / f"{work.name}-{survivors}"))
                where = f"at {disk.log[-1]!r}, {survivors} survived"
                assert running(rest) in ({old, new} if disk.was_cut else {new}), where
                if is_thorough or fatal % len(Survivors) == number:
                    update.run(rest)
                    assert running(rest) == new, where
                shutil.rmtree(rest.path, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
            if not disk.was_cut:
                break

        assert fatal > 8

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            pytest.param(errno.ENOSPC, DiskFullError, id="full"),
            pytest.param(errno.EROFS, StoreReadOnlyError, id="read-only"),
            pytest.param(errno.EACCES, StoreReadOnlyError, id="forbidden", marks=pytest.mark.slow),
        ],
    )
    def test_may_be_refused(
        self,
        update: Update,
        tmp_path: Path,
        code: int,
        error: type[OSError],
        *,
        is_thorough: bool,
    ) -> None:
        """A full or read-only disk is named, or did no harm; with a good disk it goes on."""
        old, new = update.pairs(tmp_path / "whole")

        for fatal in itertools.count(1):
            work = tmp_path / f"work-{fatal}"
            update.start(work)
            disk = RefusingDisk(fatal, code)
            refusal = outcome(update, update.open(work, disk))
            if refusal is None:
                assert running(update.open(work)) == new
            else:
                assert isinstance(refusal, error)
                assert refusal.errno == code
                assert str(work) in str(refusal)
            where = f"at {disk.log[-1]!r}"
            assert running(update.open(work)) in {old, new}, where
            if is_thorough or fatal % 3 == 0:
                update.run(update.open(work))
                assert running(update.open(work)) == new, where
            shutil.rmtree(work, ignore_errors=True)
            if not disk.has_failed:
                break

        assert fatal > 8


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        ("bootstrap", SAMPLED),
        ("sync", SAMPLED),
        *(pytest.param(kind, 1, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_a_killed_process_leaves_a_pair_that_ranks(
    make_update: Callable[[str], Update], tmp_path: Path, kind: str, every: int
) -> None:
    """The same with real processes, which end without a chance to clean up."""
    update = make_update(kind)
    old, new = update.pairs(tmp_path / "whole")
    disk = CountingDisk()
    update.run(update.start(tmp_path / "counted", disk))
    (tmp_path / "update").write_bytes(pickle.dumps(update))
    fatal = range(1, disk.n_operations + 1, every)

    subprocess.run(
        [sys.executable, "-c", KILLED_UPDATES, tmp_path, *map(str, fatal)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )

    assert len(fatal) >= 4
    for number in fatal:
        rest = update.open(tmp_path / f"killed-{number}")
        assert running(rest) in {old, new}, disk.log[number - 1]
        update.run(rest)
        assert running(rest) == new, disk.log[number - 1]


KILLED_UPDATES = textwrap.dedent(
    """
    import os, pickle, sys
    from pathlib import Path
    from tests.device.faulty_disk import ExitingDisk

    folder = Path(sys.argv[1])
    update = pickle.loads((folder / "update").read_bytes())
    for fatal in map(int, sys.argv[2:]):
        child = os.fork()
        if child == 0:
            update.run(update.start(folder / f"killed-{fatal}", ExitingDisk(fatal, 9)))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, fatal
    """
)
