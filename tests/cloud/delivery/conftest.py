# SPDX-License-Identifier: Apache-2.0
"""A small model, a store with keys, and a TUF client that reads the store's folder."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from tests.cloud.delivery.folders import StoreFolder
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore, FolderArtifacts
from pocketrec_cloud.delivery.publishing.bundles import publish_bundle
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.layout import metadata_name, target_name
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_cloud.delivery.serving.composition import build_parts
from pocketrec_cloud.delivery.serving.config import ServerConfig
from pocketrec_cloud.delivery.serving.handlers import DeliveryService
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_cloud.onnx_graphs import write_extract_graph
from pocketrec_quantization.bundle import (
    CARD,
    DEFAULT_PLAN,
    EXTRACT,
    EXTRACT_VECTORS,
    FROZEN,
    ITEMS,
    BundleFolder,
    ExtractorInfo,
    ItemTableInfo,
    write_bundle,
)
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.planners import sensitivity_to_bytes
from pocketrec_quantization.testing import (
    tiny_extract_vectors,
    tiny_extractor,
    tiny_frozen,
    tiny_items,
    tiny_manifest,
    tiny_personal_planner,
    tiny_plan,
)

NOW_S = 1_800_000_000
CARD_BYTES = 600 * 1024  # more than one chunk


@dataclass
class Clock:
    """Unix seconds that move only when a test says so."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One store with its keys, and what a test does with them."""

    folder: Path
    root: bytes
    clock: Clock
    database: DeliveryStore = field(default_factory=MemoryStore)
    published: list[ModelRecord] = field(default_factory=list)
    artifacts_elsewhere: ArtifactStore | None = None

    @property
    def store(self) -> Path:
        """The server's folder of published bundles."""
        return self.folder / "store"

    @property
    def keys(self) -> Path:
        """Offline and online keys."""
        return self.folder / "keys"

    @property
    def layout(self) -> StoreFolder:
        """The paths inside the store."""
        return StoreFolder(self.store)

    @property
    def artifacts(self) -> ArtifactStore:
        """The files of the store."""
        return self.artifacts_elsewhere or FolderArtifacts(self.store)

    @property
    def storage(self) -> Storage:
        """Files and records."""
        return Storage(artifacts=self.artifacts, database=self.database)

    def config(self, **changes: object) -> ServerConfig:
        """Return how to serve this store."""
        return ServerConfig(store=self.store, keys=self.keys, **changes)  # type: ignore[arg-type]

    def serve(self, **changes: object) -> AbstractContextManager[str]:
        """Serve with this database and clock while a ``with`` block runs; yields the address."""
        return serve_in_thread(self.config(**changes), clock=self.clock, database=self.database)

    def copy(self, folder: Path) -> Deployment:
        """Return a copy of all files, with a clock of its own."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        copy = Deployment(
            folder=folder, root=self.root, clock=Clock(), published=list(self.published)
        )
        for record in copy.published:
            copy.database.record_model(record)
        return copy

    def bundle(self, *, version: int = 1, seed: int = 0, model_name: str = "demo") -> BundleFolder:
        """Write a bundle whose weights depend on the seed, and its other parts on the version."""
        folder = self.folder / f"{model_name}-{version}-{seed}"
        return make_bundle(folder, version=version, seed=seed, model_name=model_name)

    def publish(
        self,
        bundle: BundleFolder,
        *,
        planner: bytes | None = None,
        is_candidate: bool = False,
        storage: Storage | None = None,
    ) -> ModelRecord:
        """Publish a bundle with random sensitivities."""
        record = publish_bundle(
            storage or self.storage,
            self.keys,
            bundle,
            make_sensitivity(bundle),
            planner=planner,
            is_candidate=is_candidate,
            clock=self.clock,
        )
        self.published.append(record)
        return record

    def tuf_client(self) -> Updater:
        """Return one device's TUF client: it trusts the first root and what it saw before."""
        folder = str(self.folder / "device")
        Path(folder).mkdir(exist_ok=True)
        client = Updater(
            metadata_dir=folder,
            metadata_base_url="store://metadata/",
            target_dir=folder,
            target_base_url="store://targets/",
            fetcher=ArtifactFetcher(self.artifacts),
            config=UpdaterConfig(prefix_targets_with_hash=False),
            bootstrap=self.root,
        )
        client._trusted_set.reference_time = datetime.fromtimestamp(self.clock.now_s, UTC)
        return client


def make_bundle(folder: Path, *, version: int, seed: int, model_name: str) -> BundleFolder:
    """Write a bundle without graphs: the server never looks into them."""
    frozen, items = tiny_frozen(seed=seed), replace(tiny_items(seed=version), version=version)
    parts = {
        FROZEN: frozen.to_bytes(),
        ITEMS: items.to_bytes(),
        DEFAULT_PLAN: encode_plan(tiny_plan(frozen.layers, frozen.digest), None),
        CARD: np.random.default_rng(version).bytes(CARD_BYTES),
    }
    manifest = replace(
        tiny_manifest(), model_name=model_name, version=version, items=ItemTableInfo.of(items)
    )
    write_bundle(folder, manifest, parts)
    return BundleFolder.open(folder)


def add_extractor(bundle: BundleFolder, folder: Path) -> BundleFolder:
    """Write a bundle with the parts of another one, and an extractor."""
    extractor = tiny_extractor()
    parts = {part.name: bundle.read(part.name) for part in bundle.manifest.parts}
    parts[EXTRACT] = write_extract_graph(extractor)
    parts[EXTRACT_VECTORS] = tiny_extract_vectors(extractor, bundle.read_items()).to_bytes()
    manifest = replace(
        bundle.manifest,
        parts=(),
        extractor=ExtractorInfo(kind="gru", window=9),
        schema_minor=1,
    )
    write_bundle(folder, manifest, parts)
    return BundleFolder.open(folder)


def make_sensitivity(bundle: BundleFolder) -> bytes:
    """Return losses that fall with the width, at random."""
    shape = (total_channels(bundle.manifest.layers), 3)
    losses = np.sort(np.random.default_rng(0).random(shape), axis=1)[:, ::-1]
    return sensitivity_to_bytes(losses.copy())


@pytest.fixture(scope="session")
def empty_template(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Keys and an empty repository, made once and copied by tests."""
    folder = tmp_path_factory.mktemp("empty")
    clock = Clock()
    KeyFolder(folder / "keys").create()
    storage = Storage(artifacts=FolderArtifacts(folder / "store"), database=MemoryStore())
    root = create_repository(storage, folder / "keys", clock=clock)
    return Deployment(folder=folder, root=root, clock=clock)


@pytest.fixture(scope="session")
def published_template(
    empty_template: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Deployment:
    """A repository with one bundle, made once and copied by tests."""
    template = empty_template.copy(tmp_path_factory.mktemp("published"))
    template.publish(template.bundle())
    return template


@pytest.fixture
def empty(empty_template: Deployment, tmp_path: Path) -> Deployment:
    """Keys and an empty repository."""
    return empty_template.copy(tmp_path)


@pytest.fixture
def deployment(published_template: Deployment, tmp_path: Path) -> Deployment:
    """Keys and a repository with version 1 of the model "demo"."""
    return published_template.copy(tmp_path)


@pytest.fixture
def bundle(deployment: Deployment) -> BundleFolder:
    """The bundle that is published."""
    return BundleFolder.open(deployment.folder / "demo-1-0")


@pytest.fixture
def personal(deployment: Deployment) -> BundleFolder:
    """A bundle of another model, published with a personal planner."""
    plain = deployment.bundle(seed=1, model_name="personal")
    bundle = add_extractor(plain, deployment.folder / "with-extractor")
    planner = tiny_personal_planner(bundle.manifest.layers, bundle.model_digest)
    deployment.publish(bundle, planner=planner.to_bytes())
    return bundle


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a server with the S3 API, on the loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a prefix in a new bucket, with the environment that leads there."""
    environment = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/store"


@pytest.fixture
def service(deployment: Deployment) -> Iterator[DeliveryService]:
    """What the handlers for devices work on, without a socket."""
    parts = build_parts(deployment.config(), deployment.clock, database=deployment.database)
    yield parts.device
    parts.close()


class ArtifactFetcher(FetcherInterface):
    """Reads a store's files the way the server maps them."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, path = url.partition("://")[2].partition("/")
        if kind == "metadata":
            name = metadata_name(path)
        else:
            name = target_name(read_publication(self._artifacts).files[path].sha256)
        if self._artifacts.size_bytes(name) is None:
            raise DownloadHTTPError(f"{path} is not there", 404)
        yield self._artifacts.read(name)
