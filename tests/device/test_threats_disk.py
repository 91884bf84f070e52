# SPDX-License-Identifier: Apache-2.0
"""The threats to a device's disk, one test each: full, damaged, cut off, fought over.

As in ``test_threats``, whatever happens leaves a pair that ranks as before.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.device.unharmed import HISTORY, ranking_after_restart, ranking_of, unharmed

from pocketrec.errors import StoreError, StoreLockedError
from pocketrec_device import Runtime
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment
    from tests.device.man_in_the_middle import ManInTheMiddle

MakeDevice = Callable[..., Runtime]
MakeBundle = Callable[..., BundleFolder]


class TestDisk:
    @pytest.mark.parametrize(
        "step", ["append", "move", "share", "write manifest.pb", "write plan", "write state"]
    )
    def test_disk_full(
        self,
        make_device: MakeDevice,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        step: str,
    ) -> None:
        """Wherever the disk is full, the error is the system's and the old pair stays."""
        deployment.publish(make_bundle(version=2, seed=1))

        def fill(name: str) -> None:
            if name.startswith(step) or (step == "write plan" and name.endswith(".plan")):
                raise OSError(errno.ENOSPC, "No space left on device")

        full = make_device(on_step=fill)
        full.load()
        full.observe_many(HISTORY)
        with unharmed(full, OSError, "No space left"):
            full.sync(middle.target)

        assert device.sync(middle.target).bundle_version == 2

    def test_disk_that_cannot_delete(
        self,
        make_device: MakeDevice,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """Leftovers that cannot be deleted do not undo a switch."""
        del device
        deployment.publish(make_bundle(version=2, seed=1))

        def refuse(name: str) -> None:
            if name == "prune":
                raise OSError(errno.EROFS, "Read-only file system")

        assert make_device(on_step=refuse).sync(middle.target).bundle_version == 2

    def test_power_cut_at_every_step(
        self, device: Runtime, make_bundle: MakeBundle, tmp_path: Path
    ) -> None:
        """Killed at any write, flush or rename, a device comes back with one whole pair."""
        newer = make_bundle(version=2, seed=1)
        result = subprocess.run(
            [sys.executable, "-c", POWER_CUTS, device._store.path, newer.path, tmp_path / "cut"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )

        versions = [int(word) for word in result.stdout.split()]
        assert len(versions) > 20
        assert versions == sorted(versions)  # the old pair up to one point, the new one after
        assert set(versions) == {1, 2}

    def test_power_cut_between_write_and_switch_of_a_sync(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """A sync that is killed with everything written leaves the old pair, and no debt."""
        deployment.publish(make_bundle(version=2, seed=1))
        before = ranking_of(device)

        killed = subprocess.run(
            [sys.executable, "-c", KILLED_SYNC, device._store.path, middle.target],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )

        assert killed.returncode == 9
        assert ranking_after_restart(device) == before
        report = device.sync(middle.target)
        assert (report.bundle_version, report.parts_downloaded) == (2, 0)

    def test_two_writers(self, device: Runtime, middle: ManInTheMiddle) -> None:
        """A second process waits its turn; a killed one leaves no lock behind."""
        script = (
            "import sys, time\n"
            "from pocketrec_device.store import Store\n"
            "with Store(sys.argv[1]).writing():\n"
            "    print('locked', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, device._store.path],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            with unharmed(device, StoreLockedError, "another process"):
                device.sync(middle.target)
            other.kill()

        device.sync(middle.target)

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"{", id="cut-short"),
            pytest.param(bytes(100), id="zeros"),
            pytest.param(b'{"state": {}, "sha256": ""}', id="other-json"),
        ],
    )
    def test_damaged_state(self, device: Runtime, damage: bytes) -> None:
        """The second copy takes over."""
        before = ranking_of(device)
        (device._store.path / "state.json").write_bytes(damage)

        assert ranking_after_restart(device) == before

    def test_both_copies_of_the_state_damaged(self, device: Runtime) -> None:
        """With nothing to trust left, the error says what to do."""
        for name in ("state.json", "state.backup.json"):
            (device._store.path / name).write_bytes(b"damaged")

        with pytest.raises(StoreError, match="create it again and sync"):
            Runtime.open(device._store.path)

    def test_damaged_bundle(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """When the current pair went bad on disk, a restart runs the previous one and says so."""
        before = ranking_of(device)
        deployment.publish(make_bundle(version=2, seed=1))
        device.sync(middle.target)
        current = device.status().current
        assert current is not None
        for part in (device._store.path / "bundles" / current.bundle / "parts").iterdir():
            if part.stat().st_nlink == 1:
                part.write_bytes(b"damaged")

        with Runtime.open(device._store.path, backend="numpy") as restarted:
            restarted.observe_many(HISTORY)
            assert ranking_of(restarted) == before
            assert "fetch the bundle again" in restarted.problem

            restarted.sync(middle.target)
            assert restarted.problem == ""
        assert ranking_after_restart(device) == ranking_of(device)


POWER_CUTS = textwrap.dedent(
    """
    import os, shutil, sys
    from pocketrec_device.engine import EngineSettings
    from pocketrec_device.runtime import Runtime
    from pocketrec_device.store import Store

    store, newer, work = sys.argv[1:]
    numpy = EngineSettings(backend="numpy")

    def install(folder, fatal_step):
        steps = 0
        def step(*_):
            nonlocal steps
            steps += 1
            if steps == fatal_step:
                os._exit(9)
        def before(call):
            return lambda *arguments: (step(), call(*arguments))[1]
        os.fsync, os.replace, os.link = before(os.fsync), before(os.replace), before(os.link)
        runtime = Runtime(Store(folder, on_step=step), numpy)
        runtime.load()
        runtime.bootstrap(newer)
        os._exit(0)

    fatal_step, status = 0, 9
    while status == 9:
        fatal_step += 1
        shutil.copytree(store, work, symlinks=True)
        child = os.fork()
        if child == 0:
            install(work, fatal_step)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with Runtime.open(work, backend="numpy") as runtime:
            assert runtime.problem == ""
            runtime.observe("a")
            assert len(runtime.rerank("abc".split("x") + ["b"], 2)) == 2
            print(runtime.status().current.bundle_version)
        with Store(work).writing():
            pass
        shutil.rmtree(work)
    assert status == 0
    """
)

KILLED_SYNC = textwrap.dedent(
    """
    import os, sys
    from pocketrec_device.engine import EngineSettings
    from pocketrec_device.runtime import Runtime
    from pocketrec_device.store import Store

    def kill(step):
        if step == "write state.json":
            os._exit(9)

    Runtime(Store(sys.argv[1], on_step=kill), EngineSettings(backend="numpy")).sync(sys.argv[2])
    """
)
