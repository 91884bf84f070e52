# SPDX-License-Identifier: Apache-2.0
"""A tiny model as a whole bundle, and stores that hold it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests.device.man_in_the_middle import ManInTheMiddle
from tests.device.sessions import SETTINGS, fresh
from tests.device.unharmed import HISTORY

from pocketrec.files import SYSTEM_DISK, Disk
from pocketrec_cloud.delivery.publishing.bundles import publish_bundle
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.publishing.storage import Storage, open_storage
from pocketrec_cloud.delivery.serving.server import ServerConfig
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_device.engine import Engine, build_engine
from pocketrec_device.install import switch
from pocketrec_device.live import LiveSession
from pocketrec_device.runtime import Runtime
from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import (
    DEFAULT_PLAN,
    FROZEN,
    GRAPH_PARTS,
    ITEMS,
    VECTORS,
    BackboneConfig,
    BundleFolder,
    ExtractorInfo,
    ItemTableInfo,
    Manifest,
    write_bundle,
)
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.manifest import schema_minor_of
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.plan import Plan, encode_plan
from pocketrec_quantization.planners import sensitivity_to_bytes
from pocketrec_quantization.references import reference_of
from pocketrec_quantization.testing import tiny_frozen, tiny_plan
from pocketrec_quantization.vectors import TestVectors, VectorCase

NOW_S = 1_800_000_000
CONFIG = BackboneConfig(
    kind="sasrec", embedding_dim=8, n_blocks=2, n_heads=2, window=5, ffn_multiplier=2
)
CASER = BackboneConfig(
    kind="caser", embedding_dim=8, window=5, max_height=3, n_horizontal=6, n_vertical=3
)
CONFIGS = {config.kind: config for config in (CONFIG, CASER)}
ITEM_IDS = tuple("abcdefghijkl")


@dataclass(frozen=True)
class TinyModel:
    """A random model; the seed decides the weights."""

    frozen: FrozenModel
    graphs: dict[str, bytes]
    config: BackboneConfig = CONFIG

    @property
    def program_fixture(self) -> str:
        """The fixture that makes an ExecuTorch program of the model."""
        return {"sasrec": "program", "caser": "caser_program"}[self.config.kind]

    def plan(self, **changes: object) -> Plan:
        """8 bits everywhere, for everybody, unless changed."""
        codes = np.full(total_channels(self.frozen.layers), 3, np.uint8)
        return self.mixed_plan(**{"codes": codes, "planner": "uniform-8"} | changes)

    def mixed_plan(self, **changes: object) -> Plan:
        """Random codes, unless changed."""
        n_channels = total_channels(self.frozen.layers)
        codes = np.random.default_rng(7).integers(1, 4, n_channels).astype(np.uint8)
        return tiny_plan(self.frozen.layers, self.frozen.digest, **{"codes": codes} | changes)


@cache
def tiny_model(seed: int, config: BackboneConfig = CONFIG) -> TinyModel:
    """Return the model of a seed."""
    frozen = tiny_frozen(config, seed=seed)
    graphs = write_graphs(frozen.dense, config)
    parts = {GRAPH_PARTS[name]: graph for name, graph in graphs.items()}
    return TinyModel(frozen=frozen, graphs=parts, config=config)


@cache
def tiny_items(version: int, item_ids: tuple[str, ...] = ITEM_IDS) -> ItemTable:
    """Return random embeddings of a few items; the version decides them."""
    rng = np.random.default_rng(100 + version)
    embeddings = rng.normal(size=(len(item_ids) + 1, CONFIG.embedding_dim)).astype(np.float32)
    return ItemTable.from_embeddings(embeddings, item_ids, version)


def tiny_vectors(model: TinyModel, items: ItemTable) -> TestVectors:
    """Return three cases as the reference computes them."""
    reference = reference_of(model.frozen, model.plan().widths, model.config)
    candidates = np.arange(1, 6, dtype=np.int32)
    cases = []
    for history in ([3], [1, 2, 3], [5, 4, 3, 2, 1]):
        indices = np.array(history, np.int32)
        h = reference.state_after(items.embed(indices))
        scores = reference.score(h, items.embed(candidates))
        cases.append(VectorCase(history=indices, candidates=candidates, scores=scores))
    tolerance = {"numpy": 1e-4, "onnxruntime": 1e-3, "executorch": 1e-3}
    return TestVectors(cases=tuple(cases), tolerance=tolerance)


def write_tiny_bundle(
    folder: Path,
    *,
    version: int = 1,
    seed: int = 0,
    items: ItemTable | None = None,
    model_name: str = "demo",
    extractor: ExtractorInfo | None = None,
    parts: dict[str, bytes] | None = None,
    config: BackboneConfig = CONFIG,
) -> BundleFolder:
    """Write a bundle; ``parts`` replaces or adds contents."""
    model, items = tiny_model(seed, config), items or tiny_items(1)
    manifest = Manifest(
        model_name=model_name,
        version=version,
        created_at_s=NOW_S,
        backbone=config,
        items=ItemTableInfo.of(items),
        layers=model.frozen.layers,
        extractor=extractor,
        schema_minor=schema_minor_of(config, extractor, ItemTableInfo.of(items)),
    )
    contents = model.graphs | {
        FROZEN: model.frozen.to_bytes(),
        ITEMS: items.to_bytes(),
        DEFAULT_PLAN: encode_plan(model.plan(), None),
        VECTORS: tiny_vectors(model, items).to_bytes(),
    }
    write_bundle(folder, manifest, contents | (parts or {}))
    return BundleFolder.open(folder)


@pytest.fixture(scope="session")
def model() -> TinyModel:
    """The model of seed 0."""
    return tiny_model(0)


@pytest.fixture(scope="session")
def other_model() -> TinyModel:
    """The model of seed 1."""
    return tiny_model(1)


@pytest.fixture(scope="session")
def program() -> bytes:
    """An ExecuTorch program of the tiny model under its mixed plan; takes a minute."""
    pytest.importorskip("executorch", reason="needs the extra 'executorch'")
    pytest.importorskip("torch", reason="needs the extra 'executorch'")
    from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
    from pocketrec_cloud.executorch_program import export_executorch
    from pocketrec_cloud.export import with_weights

    shape = SASRecConfig(
        n_items=12, embedding_dim=8, n_blocks=2, n_heads=2, window=5, ffn_multiplier=2
    )
    model = tiny_model(0)
    network = SASRec(shape).eval()
    network.input_scale = 1.0
    weights = model.frozen.adapt(model.mixed_plan().widths)
    return export_executorch(with_weights(network, {**model.frozen.dense, **weights}))


@pytest.fixture(scope="session")
def caser_program() -> bytes:
    """The same of the tiny Caser."""
    pytest.importorskip("executorch", reason="needs the extra 'executorch'")
    pytest.importorskip("torch", reason="needs the extra 'executorch'")
    from pocketrec_cloud.backbones.caser import Caser, CaserConfig
    from pocketrec_cloud.executorch_program import export_executorch
    from pocketrec_cloud.export import with_weights

    shape = CaserConfig(
        n_items=12, embedding_dim=8, window=5, max_height=3, n_horizontal=6, n_vertical=3
    )
    model = tiny_model(0, CASER)
    network = Caser(shape).eval()
    network.input_scale = 1.0
    weights = model.frozen.adapt(model.mixed_plan().widths)
    return export_executorch(with_weights(network, {**model.frozen.dense, **weights}))


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., BundleFolder]:
    """Writes a bundle; arguments as ``write_tiny_bundle``, without the folder."""

    def make(**arguments: object) -> BundleFolder:
        number = len(list(tmp_path.glob("bundle-*")))
        return write_tiny_bundle(tmp_path / f"bundle-{number}", **arguments)

    return make


@pytest.fixture
def make_items() -> Callable[..., ItemTable]:
    """Makes an item table of random embeddings; the version decides them."""
    return tiny_items


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleFolder:
    """Version 1 of the tiny bundle; do not write into it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def runtime(tmp_path: Path, bundle: BundleFolder) -> Runtime:
    """A runtime on the NumPy backend with version 1 installed."""
    store = Store(tmp_path / "device")
    store.create("demo", None)
    runtime = Runtime(store, EngineSettings(backend="numpy"), clock=lambda: NOW_S)
    runtime.bootstrap(bundle.path)
    return runtime


@dataclass(frozen=True)
class Deployment:
    """A real server's folders: a repository with version 1 published, and its keys."""

    folder: Path

    @property
    def root(self) -> bytes:
        """The trust anchor."""
        return (self.folder / "store" / "metadata" / "1.root.json").read_bytes()

    @property
    def config(self) -> ServerConfig:
        """How to serve it."""
        return ServerConfig(store=self.folder / "store", keys=self.folder / "keys")

    def publish(
        self,
        bundle: BundleFolder,
        clock: Callable[[], float] = time.time,
        planner: PersonalPlanner | None = None,
        *,
        is_candidate: bool = False,
    ) -> None:
        """Make a bundle the current one of its model, or one for those whom a rollout names."""
        n_channels = total_channels(bundle.manifest.layers)
        losses = np.sort(np.random.default_rng(0).random((n_channels, 3)), axis=1)[:, ::-1]
        with self.storage() as storage:
            publish_bundle(
                storage,
                self.config.keys,
                bundle,
                sensitivity_to_bytes(losses.copy()),
                planner=None if planner is None else planner.to_bytes(),
                is_candidate=is_candidate,
                clock=clock,
            )

    def storage(self) -> Storage:
        """Open files and records; to be closed."""
        return open_storage(self.config.store, is_new=True)

    def serve(self, clock: Callable[[], float] = time.time) -> AbstractContextManager[str]:
        """Serve while a ``with`` block runs; yields what a client dials."""
        return serve_in_thread(self.config, clock=clock)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, bundle: BundleFolder) -> Deployment:
    """A deployment to copy from."""
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    KeyFolder(deployment.config.keys).create()
    with deployment.storage() as storage:
        create_repository(storage, deployment.config.keys)
    deployment.publish(bundle)
    return deployment


@pytest.fixture
def deployment(published: Deployment, tmp_path: Path) -> Deployment:
    """A deployment of this test's own."""
    return Deployment(shutil.copytree(published.folder, tmp_path / "deployment"))


@pytest.fixture
def target(deployment: Deployment) -> Iterator[str]:
    """The address of a server for it."""
    with deployment.serve() as target:
        yield target


@pytest.fixture
def middle(target: str) -> Iterator[ManInTheMiddle]:
    """Somebody between the device and that server."""
    with ManInTheMiddle(target) as middle:
        yield middle


@pytest.fixture
def make_device(tmp_path: Path, deployment: Deployment) -> Callable[..., Runtime]:
    """Makes a device that trusts the deployment; the same name gives the same store."""

    def make(
        name: str = "device",
        *,
        clock: Callable[[], float] = time.time,
        disk: Disk = SYSTEM_DISK,
        max_kept_bytes: int = 0,
    ) -> Runtime:
        store = Store(tmp_path / name, disk=disk, max_kept_bytes=max_kept_bytes)
        store.create("demo", deployment.root)
        return Runtime(store, EngineSettings(backend="numpy"), clock=clock)

    return make


@pytest.fixture
def device(make_device: Callable[..., Runtime], middle: ManInTheMiddle) -> Runtime:
    """A device with version 1, a plan and a history."""
    device = make_device()
    device.sync(middle.target)
    device.observe_many(HISTORY)
    return device


@pytest.fixture
def store_path(runtime: Runtime) -> Path:
    """The folder that ``runtime`` works on."""
    return runtime._store.path


@pytest.fixture
def install_plan(runtime: Runtime) -> Callable[[Plan], None]:
    """Installs an unsigned plan as a sync would install an accepted one."""

    def install(plan: Plan) -> None:
        store = runtime._store
        with store.writing():
            state = store.load()
            assert state.current is not None
            bundle = state.current.bundle
            engine = switch(store, state, bundle, encode_plan(plan, None), runtime._settings)
        runtime._live.adopt(engine)

    return install


@pytest.fixture(scope="module")
def engines(bundle: BundleFolder, model: TinyModel) -> tuple[Engine, Engine]:
    """Two plans of one bundle, on shared sessions."""
    first = build_engine(bundle, encode_plan(model.plan(), None), SETTINGS)
    mixed = encode_plan(model.mixed_plan(), None)
    return first, build_engine(bundle, mixed, SETTINGS, like=first)


@pytest.fixture
def session(engines: tuple[Engine, Engine]) -> LiveSession:
    """A session on the first engine that has seen the history."""
    return fresh(engines[0])
