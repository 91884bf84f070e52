# SPDX-License-Identifier: Apache-2.0
"""What a store keeps beyond the current and the previous pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.device.faulty_disk import CountingDisk
from tests.device.offline_service import OfflineService
from tests.device.updates import NUMPY, bring_up_to_date, install, running

from pocketrec.errors import ConfigError, DiskFullError
from pocketrec_device import Runtime
from pocketrec_device.install import roll_back
from pocketrec_device.retention import n_kept_within
from pocketrec_device.store import ROOM_MARGIN_BYTES, Store
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment, TinyModel

MakeBundle = Callable[..., BundleFolder]

files = st.dictionaries(st.integers(0, 6), st.just(10), max_size=5)


class TestNumber:
    @given(st.lists(files, max_size=6), files, st.integers(0, 120))
    def test_is_the_most_that_fits(
        self, kept: list[dict[int, int]], free: dict[int, int], max_bytes: int
    ) -> None:
        """The newest that fit together, each file paid for once, and not one more."""

        def cost(number: int) -> int:
            distinct = {name: size for pair in kept[:number] for name, size in pair.items()}
            return sum(size for name, size in distinct.items() if name not in free)

        number = n_kept_within(kept, free, max_bytes)

        assert cost(number) <= max_bytes
        assert number == len(kept) or cost(number + 1) > max_bytes

    def test_shared_files_cost_nothing(self) -> None:
        """What the current pair needs anyhow is not counted."""
        assert n_kept_within([{"a": 5, "b": 3}, {"b": 3, "c": 4}], {"a": 5}, 6) == 1
        assert n_kept_within([{"a": 5, "b": 3}, {"b": 3, "c": 4}], {"a": 5}, 7) == 2


class TestStore:
    @pytest.fixture
    def bundles(self, bundle: BundleFolder, make_bundle: MakeBundle) -> list[BundleFolder]:
        """Versions 1 to 4."""
        return [bundle, *(make_bundle(version=n, seed=n - 1) for n in (2, 3, 4))]

    def make(
        self, folder: Path, deployment: Deployment, bundles: list[BundleFolder], **arguments: object
    ) -> Store:
        """Return a store that had all bundles, one after the other."""
        store = Store(folder, **arguments)
        for packaged in bundles:
            install(store, deployment.root, packaged.path)
        return store

    def test_keeps_two_pairs_by_default(
        self, tmp_path: Path, deployment: Deployment, bundles: list[BundleFolder]
    ) -> None:
        """Nobody pays for what nobody asked for."""
        store = self.make(tmp_path / "device", deployment, bundles)

        assert len(list(store.path.glob("bundles/*"))) == 2
        assert store.load().kept == ()
        assert b'"kept"' not in (store.path / "state.json").read_bytes()

    def test_keeps_the_newest_that_fit(
        self, tmp_path: Path, deployment: Deployment, bundles: list[BundleFolder]
    ) -> None:
        """With room for one more bundle it is the one used last that stays."""
        size = sum(part.length_bytes for part in bundles[0].manifest.parts)
        store = self.make(tmp_path / "device", deployment, bundles, max_kept_bytes=int(1.3 * size))

        kept = [pair.bundle for pair in store.load().kept]

        assert kept == [bundles[1].digest.hex()]
        assert {path.name for path in store.path.glob("bundles/*")} == {
            bundle.digest.hex() for bundle in bundles[1:]
        }

    def test_returns_to_a_kept_bundle_without_a_network(
        self, tmp_path: Path, deployment: Deployment, bundles: list[BundleFolder]
    ) -> None:
        """Any pair that is still here can run again; the one that was left may come back too."""
        store = self.make(tmp_path / "device", deployment, bundles, max_kept_bytes=2**20)
        with store.writing():
            engine = roll_back(store, NUMPY, bundles[0].digest.hex())

        state = store.load()
        assert engine.manifest.version == 1
        assert running(store) == state.current
        assert [pair.bundle for pair in state.pairs] == [
            bundles[number].digest.hex() for number in (0, 3, 2, 1)
        ]
        assert state.held_back == bundles[3].digest.hex()
        assert state.bundle_version == 4

    def test_shows_what_it_keeps(
        self, tmp_path: Path, deployment: Deployment, bundles: list[BundleFolder]
    ) -> None:
        """The status names the bundles one can go back to."""
        store = self.make(tmp_path / "device", deployment, bundles, max_kept_bytes=2**20)

        status = Runtime(store, NUMPY).status()

        assert status.kept == (bundles[1].digest.hex(), bundles[0].digest.hex())

    def test_a_kept_bundle_that_is_published_again_downloads_nothing(
        self,
        tmp_path: Path,
        deployment: Deployment,
        bundles: list[BundleFolder],
        model: TinyModel,
        make_bundle: MakeBundle,
    ) -> None:
        """An operator who takes a model back publishes its parts under a higher version."""
        store = self.make(tmp_path / "device", deployment, bundles, max_kept_bytes=2**20)
        deployment.publish(make_bundle(version=5, seed=0))
        service = OfflineService(deployment.config, model.mixed_plan(version=1))

        bring_up_to_date(store, service)

        assert service.fetched_bytes == 0
        assert Runtime(store, NUMPY).status().current.bundle_version == 5  # type: ignore[union-attr]

    def test_kept_bundles_make_way_for_a_new_one(
        self,
        tmp_path: Path,
        deployment: Deployment,
        bundles: list[BundleFolder],
        make_bundle: MakeBundle,
    ) -> None:
        """Room is taken from them before an update is refused; current and previous stay."""
        store = self.make(tmp_path / "device", deployment, bundles[:3], max_kept_bytes=2**20)
        disk = CountingDisk()
        disk.n_free_bytes = ROOM_MARGIN_BYTES
        tight = Store(store.path, max_kept_bytes=2**20, disk=disk)

        with pytest.raises(DiskFullError, match="bytes free"):
            install(tight, deployment.root, bundles[3].path)

        left = {path.name for path in store.path.glob("bundles/*/manifest.pb")}
        assert left == {"manifest.pb"}
        assert len(list(store.path.glob("bundles/*/manifest.pb"))) == 2
        assert running(store) == store.load().current
        disk.n_free_bytes = 2**40
        install(tight, deployment.root, bundles[3].path)
        assert running(store) == store.load().current

    def test_a_negative_limit_is_refused(self, tmp_path: Path) -> None:
        """There is no less than nothing."""
        with pytest.raises(ConfigError, match="max_kept_bytes"):
            Store(tmp_path, max_kept_bytes=-1)


def test_a_plan_that_is_still_here_is_not_sent_again(
    make_device: Callable[..., Runtime], middle: object
) -> None:
    """Two users take turns on a device: only the first turn of each fetches a plan."""
    device = make_device(max_kept_bytes=2**20)
    for subject in ("ann", "bob", "cid", "ann", "bob"):
        device.sync(middle.target, subject=subject)  # type: ignore[attr-defined]
        current = device.status().current
        assert current is not None
        assert (current.subject, current.plan_version) == (subject, 1)

    asked = [r.installed_version for r in middle.requests("GetPlan")]  # type: ignore[attr-defined]
    assert asked == [0, 0, 0, 1, 1]
