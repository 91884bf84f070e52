# SPDX-License-Identifier: Apache-2.0
"""A small model, a store with keys, and a TUF client that reads the store's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pocketrec_cloud.delivery.keys import KeyFolder
from pocketrec_cloud.delivery.layout import StoreLayout
from pocketrec_cloud.delivery.publication import read_publication
from pocketrec_cloud.delivery.repository import create_repository
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.bundle import (
    CARD,
    DEFAULT_PLAN,
    FROZEN,
    ITEMS,
    BackboneConfig,
    BundleFolder,
    ItemTableInfo,
    Manifest,
    write_bundle,
)
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.plan import Plan, encode_plan
from pocketrec_quantization.planners import sensitivity_to_bytes
from pocketrec_quantization.quantizer import freeze_matrix

NOW_S = 1_800_000_000
DIM = 8
CARD_BYTES = 700 * 1024  # more than one chunk


@dataclass
class Clock:
    """Unix seconds that move only when a test says so."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One store with its keys, and what is needed to publish into it."""

    store: Path
    keys: Path
    root: bytes
    clock: Clock = field(default_factory=Clock)

    @property
    def layout(self) -> StoreLayout:
        return StoreLayout(self.store)


def make_model(seed: int) -> FrozenModel:
    """Return a model of two coded matrices with random weights."""
    rng = np.random.default_rng(seed)
    shapes = {"blocks.0.q": (DIM, DIM), "blocks.0.ffn1": (4 * DIM, DIM)}
    return FrozenModel(
        matrices={
            name: freeze_matrix(rng.normal(size=shape).astype(np.float32))
            for name, shape in shapes.items()
        },
        dense={"final_norm.weight": np.ones(DIM, np.float32)},
    )


def make_bundle(
    folder: Path, *, version: int = 1, seed: int = 0, model_name: str = "demo"
) -> BundleFolder:
    """Write a bundle whose weights depend on the seed, and whose card on the version."""
    model, rng = make_model(seed), np.random.default_rng(version)
    table = rng.normal(size=(4, DIM)).astype(np.float32)
    items = ItemTable.from_embeddings(table, ("a", "b", "c"), version=version)
    default = Plan(
        model_digest=model.digest,
        levels=DEFAULT_LEVELS,
        layers=model.layers,
        codes=np.full(total_channels(model.layers), 2, np.uint8),
        budget_bytes=budget_bytes(model.layers, 4.0),
        subject="",
        planner="uniform-4",
        version=0,
        issued_at_s=NOW_S,
        expires_at_s=0,
        key_id=b"",
    )
    manifest = Manifest(
        model_name=model_name,
        version=version,
        created_at_s=NOW_S,
        backbone=BackboneConfig(
            kind="sasrec", embedding_dim=DIM, n_blocks=1, n_heads=2, window=16, ffn_multiplier=4
        ),
        items=ItemTableInfo(n_items=3, n_rows=4, row_bits=8, version=version),
        layers=model.layers,
    )
    parts = {
        FROZEN: model.to_bytes(),
        ITEMS: items.to_bytes(),
        DEFAULT_PLAN: encode_plan(default, None),
        CARD: rng.bytes(CARD_BYTES),
    }
    write_bundle(folder, manifest, parts)
    return BundleFolder.open(folder)


def make_sensitivity(bundle: BundleFolder, seed: int = 0) -> bytes:
    """Return losses that fall with the width, at random."""
    shape = (total_channels(bundle.manifest.layers), 3)
    losses = np.sort(np.random.default_rng(seed).random(shape), axis=1)[:, ::-1]
    return sensitivity_to_bytes(losses.copy())


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """Keys and an empty repository."""
    store, keys, clock = tmp_path / "store", tmp_path / "keys", Clock()
    KeyFolder(keys).create()
    root = create_repository(store, keys, clock=clock)
    return Deployment(store=store, keys=keys, root=root, clock=clock)


class FolderFetcher(FetcherInterface):
    """Reads a store's folder the way the server maps it."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, path = url.partition("://")[2].partition("/")
        if kind == "metadata":
            file = self._layout.metadata / path
        else:
            file = self._layout.target(read_publication(self._layout).files[path].sha256)
        if not file.exists():
            raise DownloadHTTPError(f"{path} is not there", 404)
        yield file.read_bytes()


@pytest.fixture
def tuf_client(tmp_path: Path, deployment: Deployment) -> Callable[[], Updater]:
    """Make a device's TUF client, each with an empty cache and the first root."""
    count = 0

    def connect() -> Updater:
        nonlocal count
        count += 1
        folder = tmp_path / f"client-{count}"
        folder.mkdir()
        return Updater(
            metadata_dir=str(folder),
            metadata_base_url="store://metadata/",
            target_dir=str(folder),
            target_base_url="store://targets/",
            fetcher=FolderFetcher(deployment.layout),
            config=UpdaterConfig(prefix_targets_with_hash=False),
            bootstrap=deployment.root,
        )

    return connect
