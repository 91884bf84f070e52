# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import pytest

from pocketrec.errors import ConfigError, IntegrityError, StoreError, StoreLockedError
from pocketrec_device.state import DeviceState, Pair
from pocketrec_device.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_quantization.bundle import BundleFolder


ROOT = b'{"signed": {"_type": "root"}}'
ANOTHER_ROOT = b'{"signed": {"_type": "root", "version": 2}}'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A new store."""
    store = Store(tmp_path / "device")
    store.create("demo", ROOT)
    return store


def digest(data: bytes) -> str:
    """Return the hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


class TestCreate:
    def test_may_be_repeated(self, store: Store) -> None:
        """An app creates its store at every start; what is there stays."""
        store.save(DeviceState(model="demo", bundle_version=3))

        store.create("demo", ANOTHER_ROOT)

        assert store.load().bundle_version == 3
        assert store.root() == ROOT

    def test_needs_no_lock_when_nothing_is_to_do(self, store: Store) -> None:
        """An app starts while another process syncs."""
        with store.writing():
            store.create("demo", ROOT)

    def test_refuses_another_model(self, store: Store) -> None:
        """One store follows one model line."""
        with pytest.raises(StoreError, match="follows model 'demo', not 'other'"):
            store.create("other", None)

    @pytest.mark.parametrize(
        "root", [b"", b"garbage", b"[]", b'{"signed": 3}', b'{"signed": {"_type": "targets"}}']
    )
    def test_refuses_what_is_no_root_and_makes_nothing(self, tmp_path: Path, root: bytes) -> None:
        """The wrong file would make every sync fail, and could not be replaced."""
        store = Store(tmp_path / "device")

        with pytest.raises(ConfigError, match="TUF root metadata"):
            store.create("demo", root)

        assert not store.path.exists()

    @pytest.mark.parametrize("model", ["", "../x", "a/b", "x" * 65])
    def test_refuses_what_is_no_model_name(self, tmp_path: Path, model: str) -> None:
        """A model line is called by a name, as in manifests."""
        with pytest.raises(ConfigError, match="model"):
            Store(tmp_path / "device").create(model, None)

    def test_adds_a_root_later(self, tmp_path: Path) -> None:
        """A store that began offline can be taught whom to trust."""
        store = Store(tmp_path / "device")
        store.create("demo", None)
        with pytest.raises(StoreError, match="no root of trust"):
            store.root()

        store.create("demo", ROOT)

        assert store.root() == ROOT

    def test_keeps_its_files_to_the_owner(self, store: Store) -> None:
        """The token is a secret: nobody else may read the folder or the state."""
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
        assert stat.S_IMODE((store.path / "state.json").stat().st_mode) == 0o600

    def test_without_a_store_the_message_says_what_to_do(self, tmp_path: Path) -> None:
        """Loading from nowhere names the call that helps."""
        with pytest.raises(StoreError, match=r"Runtime\.create"):
            Store(tmp_path / "nowhere").load()


class TestLock:
    def test_keeps_a_second_writer_out(self, store: Store) -> None:
        """Two writers never work at the same time, not even in one process."""
        with (
            store.writing(),
            pytest.raises(StoreLockedError, match="writing"),
            Store(store.path).writing(),
        ):
            pass

    def test_ends_with_the_block(self, store: Store) -> None:
        """After an error the next writer may enter."""
        with pytest.raises(ZeroDivisionError), store.writing():
            raise ZeroDivisionError

        with store.writing():
            pass


class TestContents:
    def test_a_plan_comes_back(self, store: Store) -> None:
        """A plan is kept under its digest."""
        name = store.put_plan(b"a plan")

        assert name == digest(b"a plan")
        assert store.read_plan(name) == b"a plan"

    def test_a_damaged_plan_is_refused_and_can_be_written_again(self, store: Store) -> None:
        """A digest that does not match is never returned, nor does it block a repair."""
        name = store.put_plan(b"a plan")
        (store.path / "plans" / f"{name}.plan").write_bytes(b"a plam")
        with pytest.raises(IntegrityError, match="has changed"):
            store.read_plan(name)

        store.put_plan(b"a plan")

        assert store.read_plan(name) == b"a plan"

    def test_a_bundle_without_its_manifest_is_not_there(self, store: Store) -> None:
        """The manifest is written last, so its absence means an unfinished bundle."""
        store.put_part("b" * 64, b"a part")

        with pytest.raises(StoreError, match="not in the store"):
            store.open_bundle("b" * 64)

    def test_a_bundle_under_a_wrong_name_is_refused(
        self, store: Store, bundle: BundleFolder
    ) -> None:
        """A folder's name is a promise about its manifest."""
        folder = store.path / "bundles" / ("b" * 64)
        folder.mkdir(parents=True)
        (folder / "manifest.pb").write_bytes((bundle.path / "manifest.pb").read_bytes())

        with pytest.raises(IntegrityError, match="expected bundle bbb"):
            store.open_bundle("b" * 64)

    def test_a_part_is_shared_between_bundles(self, store: Store) -> None:
        """Two bundles with one part take its room once."""
        store.put_part("a" * 64, b"a part")

        assert store.has_part("b" * 64, digest(b"a part"))

        first, second = store.path.glob("bundles/*/parts/*")
        assert first.samefile(second)

    def test_a_part_is_copied_where_links_fail(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file system without hard links works too."""

        def refuse(*_: object) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(os, "link", refuse)
        store.put_part("a" * 64, b"a part")

        assert store.has_part("b" * 64, digest(b"a part"))

        first, second = store.path.glob("bundles/*/parts/*")
        assert first.read_bytes() == second.read_bytes()

    def test_a_damaged_part_counts_as_absent(self, store: Store) -> None:
        """A sync fetches it again."""
        store.put_part("a" * 64, b"a part")
        next(store.path.glob("bundles/*/parts/*")).write_bytes(b"a pert")

        assert not store.has_part("a" * 64, digest(b"a part"))
        assert not store.has_part("b" * 64, digest(b"a part"))


class TestDownloads:
    def test_grow_over_several_streams(self, store: Store) -> None:
        """What one stream left behind, the next one continues."""
        name = digest(b"abcdef")
        with pytest.raises(IntegrityError, match="ended after 2"):
            store.downloads.append(name, [b"ab"], 6)
        assert store.downloads.arrived(name, 6) == 2

        assert store.downloads.append(name, [b"cd", b"ef"], 6) == 4
        store.add_part("a" * 64, name)

        assert store.has_part("a" * 64, name)
        assert store.downloads.arrived(name, 6) == 0

    def test_with_the_wrong_content_are_dropped(self, store: Store) -> None:
        """A part that is not what its digest says never leaves the folder."""
        name = digest(b"abcdef")
        store.downloads.append(name, [b"abcdeX"], 6)

        with pytest.raises(IntegrityError, match="damaged on the way"):
            store.add_part("a" * 64, name)

        assert store.downloads.arrived(name, 6) == 0

    def test_that_are_too_long_are_dropped(self, store: Store) -> None:
        """A server cannot fill the disk beyond what was promised."""
        name = digest(b"abcdef")

        with pytest.raises(IntegrityError, match="got more"):
            store.downloads.append(name, [b"abcd", b"efgh"], 6)

        assert store.downloads.arrived(name, 6) == 0

    def test_an_overlong_leftover_starts_afresh(self, store: Store) -> None:
        """Leftovers that cannot belong to the part are not continued."""
        name = digest(b"abcdef")
        store.downloads.append(name, [b"abcdefgh"], 8)

        assert store.downloads.arrived(name, 6) == 0


class TestPrune:
    def test_keeps_what_the_state_names(self, store: Store) -> None:
        """Current and previous stay; all else, half-written files included, goes."""
        plans = [store.put_plan(bytes([number])) for number in range(3)]
        for letter in "abc":
            store.put_part(letter * 64, letter.encode())
        for folder in ("", "plans", "bundles/" + "a" * 64):
            (store.path / folder / ".half-written").write_bytes(b"?")
        store.tuf_folder.mkdir()
        for name in ("tmp1a2b", "timestamp.json"):
            (store.tuf_folder / name).write_bytes(b"?")
        pairs = [Pair(bundle=letter * 64, plan=plans[i]) for i, letter in enumerate("ab")]
        state = DeviceState(model="demo", current=pairs[0], previous=pairs[1])

        store.prune(state)

        assert {path.name for path in store.path.glob("bundles/*")} == {"a" * 64, "b" * 64}
        assert {path.stem for path in store.path.glob("plans/*")} == set(plans[:2])
        assert not list(store.path.rglob(".*"))
        assert [path.name for path in store.tuf_folder.iterdir()] == ["timestamp.json"]
