# SPDX-License-Identifier: Apache-2.0
"""The threats to a device's disk, one test each: full, damaged, cut off, fought over.

As in ``test_threats``, whatever happens leaves a pair that ranks as before.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.device.faulty_disk import CountingDisk, Cut, CutDisk, RefusingDisk
from tests.device.offline_service import OfflineService
from tests.device.unharmed import HISTORY, ranking_after_restart, ranking_of, unharmed
from tests.device.updates import NUMPY, bring_up_to_date, running

from pocketrec.errors import DiskFullError, StoreError, StoreLockedError, StoreReadOnlyError
from pocketrec_device import Runtime
from pocketrec_device.install import load_engine
from pocketrec_device.state import DeviceState
from pocketrec_device.store import ROOM_MARGIN_BYTES, Store
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment, TinyModel
    from tests.device.man_in_the_middle import ManInTheMiddle

MakeDevice = Callable[..., Runtime]
MakeBundle = Callable[..., BundleFolder]


class TestDisk:
    @pytest.mark.parametrize(
        ("code", "error"),
        [(errno.ENOSPC, DiskFullError), (errno.EROFS, StoreReadOnlyError)],
        ids=["full", "read-only"],
    )
    @pytest.mark.parametrize("n_done", [0, 9, 25])
    def test_disk_that_refuses(
        self,
        make_device: MakeDevice,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        n_done: int,
        code: int,
        error: type[StoreError],
    ) -> None:
        """A sync that cannot write says why, and takes nothing away; ``test_crash`` has it all."""
        deployment.publish(make_bundle(version=2, seed=1))
        disk = RefusingDisk(2**40, code)
        refused = make_device(disk=disk)
        refused.load()
        refused.observe_many(HISTORY)
        disk.fatal = n_done + 1

        with unharmed(refused, error, "still ranks"):
            refused.sync(middle.target)

        assert device.sync(middle.target).bundle_version == 2

    def test_too_little_room_is_noticed_before_anything_is_fetched(
        self,
        make_device: MakeDevice,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """The error names both numbers, and no part was asked for."""
        newer = make_bundle(version=2, seed=1)
        deployment.publish(newer)
        disk = CountingDisk()
        disk.n_free_bytes = ROOM_MARGIN_BYTES + 10
        tight = make_device(disk=disk)
        tight.load()
        tight.observe_many(HISTORY)
        middle.calls.clear()

        with unharmed(tight, DiskFullError, "bytes free") as caught:
            tight.sync(middle.target)

        assert not [r for r in middle.requests("FetchChunk") if "parts/" in r.target_path]
        needed = caught.value.needed_bytes
        assert needed is not None
        assert (caught.value.free_bytes, str(needed) in str(caught.value)) == (
            disk.n_free_bytes,
            True,
        )
        disk.n_free_bytes = needed
        report = tight.sync(middle.target)
        assert report.bytes_downloaded == needed - ROOM_MARGIN_BYTES

    def test_disk_that_cannot_delete(
        self,
        make_device: MakeDevice,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """Leftovers that cannot be deleted do not undo a switch."""
        deployment.publish(make_bundle(version=2, seed=1))
        disk = CountingDisk()
        keeping = make_device(disk=disk)
        device.sync(middle.target, average_bits=6)  # so that there is something to delete

        def refuse(path: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        disk.remove = refuse  # type: ignore[method-assign]
        assert keeping.sync(middle.target).bundle_version == 2

    def test_power_cut_before_the_switch_costs_no_second_download(
        self, deployment: Deployment, model: TinyModel, tmp_path: Path
    ) -> None:
        """A sync that is killed with everything written leaves no debt."""
        service = OfflineService(deployment.config, model.mixed_plan(version=1))
        counted = CountingDisk()
        for name, disk in (("whole", counted), ("cut", None)):
            folder = tmp_path / name
            Store(folder).create("demo", deployment.root)
            if disk is None:
                before_switch = max(
                    number
                    for number, step in enumerate(counted.log, start=1)
                    if step.startswith("write .state.backup")
                )
                with pytest.raises(Cut):
                    bring_up_to_date(Store(folder, disk=CutDisk(folder, before_switch)), service)
            else:
                bring_up_to_date(Store(folder, disk=disk), service)
        assert Store(folder).load().current is None
        service.fetched_bytes = 0

        bring_up_to_date(Store(folder), service)

        assert service.fetched_bytes == 0
        assert running(Store(folder)) is not None

    def test_reading_writes_nothing(self, device: Runtime) -> None:
        """A store on a read-only medium opens and ranks: no file is opened for writing."""
        script = (
            "import os, sys\n"
            "def watch(event, arguments):\n"
            "    if event in {'os.mkdir', 'os.rename', 'os.remove', 'os.link', 'os.chmod'}:\n"
            "        raise SystemExit(f'{event} {arguments}')\n"
            "    if event == 'open' and str(arguments[0]).startswith(sys.argv[1]):\n"
            "        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):\n"
            "            raise SystemExit(f'{event} {arguments}')\n"
            "from pocketrec_device import Runtime\n"
            "sys.addaudithook(watch)\n"
            "runtime = Runtime.open(sys.argv[1], backend='numpy')\n"
            "runtime.observe_many(list('abc'))\n"
            "assert runtime.problem == '', runtime.problem\n"
            "assert len(runtime.rerank(list('defg'), 3).items) == 3\n"
            "assert runtime.status().problems == ()\n"
            "Runtime.create(sys.argv[1], model='demo', backend='numpy')\n"
        )
        subprocess.run(
            [sys.executable, "-B", "-c", script, device._store.path],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )

    def test_a_reader_that_is_overtaken_starts_again(
        self, runtime: Runtime, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two switches between reading the state and reading the bundle delete what it named."""
        newer = [make_bundle(version=version, seed=version).path for version in (2, 3)]
        reader = Store(runtime._store.path)
        load = reader.load

        def overtaken() -> DeviceState:
            state = load()
            while newer:
                runtime.bootstrap(newer.pop(0))
            return state

        monkeypatch.setattr(reader, "load", overtaken)

        engine, problem = load_engine(reader, NUMPY)

        assert (engine.manifest.version, problem) == (3, "")

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
