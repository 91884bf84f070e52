# SPDX-License-Identifier: Apache-2.0
"""Each file of a store damaged in turn: ranking goes on, and a sync repairs it.

The damage is of four kinds: cut short, a bit flipped, emptied, deleted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.device.offline_service import OfflineService
from tests.device.unharmed import CANDIDATES, HISTORY
from tests.device.updates import bring_up_to_date

from pocketrec.errors import IntegrityError, StoreAccessError, StoreError
from pocketrec_device import Ranking, Runtime
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import ITEMS, BundleFolder

if TYPE_CHECKING:
    from tests.device.conftest import Deployment, TinyModel


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes() or b"?")
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    """Lose the end."""
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    """Lose everything but the name."""
    path.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": cut_short,
    "flipped": flip,
    "emptied": empty,
    "deleted": Path.unlink,
}


@pytest.fixture
def service(
    deployment: Deployment, model: TinyModel, make_bundle: Callable[..., BundleFolder]
) -> OfflineService:
    """A server with version 1 and a personal plan."""
    return OfflineService(deployment.config, model.mixed_plan(version=1))


@pytest.fixture
def whole(
    tmp_path: Path,
    deployment: Deployment,
    service: OfflineService,
    other_model: TinyModel,
    make_bundle: Callable[..., BundleFolder],
) -> Store:
    """A store with two pairs that share no frozen weights."""
    store = Store(tmp_path / "whole")
    store.create("demo", deployment.root)
    bring_up_to_date(store, service)
    deployment.publish(make_bundle(version=2, seed=1))
    service.plan = other_model.mixed_plan(version=2)
    bring_up_to_date(store, service)
    return store


def scores_of(store: Store) -> tuple[Ranking, str]:
    """Return what a restart ranks, and the problem it reports."""
    with Runtime.open(store.path, backend="numpy") as runtime:
        runtime.observe_many(HISTORY)
        return runtime.rerank(CANDIDATES, len(CANDIDATES)), runtime.problem


def copies(whole: Store, folder: Path) -> list[tuple[Path, str]]:
    """Return one copy of a store per file, with that file's place in it."""
    files = [p for p in sorted(whole.path.rglob("*")) if p.is_file() and not p.is_symlink()]
    names = [str(path.relative_to(whole.path)) for path in files]
    made = []
    for number, name in enumerate(names):
        # Hard links are kept: a part that two bundles share is one file.
        copied: dict[int, Path] = {}

        def copy(source: str, target: str, copied: dict[int, Path] = copied) -> str:
            first = copied.setdefault(Path(source).stat().st_ino, Path(target))
            if first == Path(target):
                return str(shutil.copy2(source, target))
            Path(target).hardlink_to(first)
            return target

        copytree = shutil.copytree(
            whole.path, folder / str(number), symlinks=True, copy_function=copy
        )
        made.append((copytree, name))
    return made


def is_read_by_both(whole: Store, name: str) -> bool:
    """Whether both pairs rest on one file: the item table, for they share it."""
    current = whole.load().current
    assert current is not None
    return name.endswith(whole.open_bundle(current.bundle).manifest.part(ITEMS).sha256.hex())


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_file_is_survived_and_repaired(
    whole: Store, service: OfflineService, deployment: Deployment, tmp_path: Path, damage: str
) -> None:
    """Whatever file it is, there is a pair that ranks, and afterwards the newest does."""
    state = whole.load()
    assert state.current is not None
    assert state.previous is not None
    good, _ = scores_of(whole)
    n_complaints = 0

    for folder, name in copies(whole, tmp_path / "damaged"):
        store = Store(folder)
        is_shared = (folder / name).stat().st_nlink > 1
        DAMAGES[damage](folder / name)

        if is_shared and damage != "deleted" and is_read_by_both(whole, name):
            with pytest.raises(StoreError, match=r"no installed pair.*sync, or bootstrap"):
                scores_of(store)
        else:
            scores, problem = scores_of(store)
            assert (scores == good) == (problem == ""), name
            n_complaints += problem != ""
        if name == "root.json":
            with pytest.raises(StoreError, match=r"root of trust.* pass root= and model="):
                bring_up_to_date(store, service)
            store.create("demo", deployment.root)
        bring_up_to_date(store, service)
        assert scores_of(store) == (good, ""), name

    assert n_complaints >= 3  # manifest, weights and plan at least


def test_a_damaged_download_is_fetched_again(
    deployment: Deployment, service: OfflineService, bundle: BundleFolder, tmp_path: Path
) -> None:
    """What arrived last week and went bad since costs one attempt, not the store."""
    store = Store(tmp_path / "device")
    store.create("demo", deployment.root)
    part = bundle.manifest.parts[0]
    content = bytearray((bundle.path / "parts" / part.sha256.hex()).read_bytes())
    content[0] ^= 1
    store.downloads.append(part.sha256.hex(), [bytes(content[:-1])], len(content) - 1)

    with pytest.raises(IntegrityError, match="sync again"):
        bring_up_to_date(store, service)
    bring_up_to_date(store, service)

    assert scores_of(store)[1] == ""


def test_a_damaged_root_is_not_replaced_by_another(tmp_path: Path, deployment: Deployment) -> None:
    """Damage is no way to make a device trust somebody else."""
    store = Store(tmp_path / "device")
    store.create("demo", deployment.root)
    flip(store.path / "root.json")

    with pytest.raises(StoreError, match="is another: expected SHA-256"):
        store.create("demo", b'{"signed": {"_type": "root"}}')

    store.create("demo", deployment.root)
    assert store.root() == deployment.root


def test_metadata_that_cannot_be_cached_is_named(
    whole: Store, service: OfflineService, deployment: Deployment
) -> None:
    """What python-tuf writes by itself belongs to the store as well."""
    shutil.rmtree(whole.tuf_folder)
    whole.tuf_folder.write_bytes(b"")

    with pytest.raises(StoreAccessError, match="expected to read and write the store"):
        bring_up_to_date(whole, service)

    assert scores_of(whole)[1] == ""
