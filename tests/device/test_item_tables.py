# SPDX-License-Identifier: Apache-2.0
"""Compressed item tables on every backend, and their replacement without the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.device.conftest import CONFIGS, ITEM_IDS, tiny_model, write_tiny_bundle
from tests.device.unharmed import CANDIDATES, HISTORY, ranking_after_restart, ranking_of, unharmed

from pocketrec.errors import HealthCheckError
from pocketrec_device import Runtime
from pocketrec_device.engine import Engine, build_engine
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.bundle import DEFAULT_PLAN, ITEMS, PROGRAM, VECTORS, BundleFolder
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.references import reference_of
from pocketrec_quantization.testing import random_table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment
    from tests.device.man_in_the_middle import ManInTheMiddle

    from pocketrec_quantization.item_table import ItemTable

MakeBundle = Callable[..., BundleFolder]
KINDS = ("shared 8", "4 bits", "product 8")


def compressed(kind: str, *, version: int = 1) -> ItemTable:
    """Return a table of one kind for the tiny model."""
    table = random_table(kind, 8, item_ids=ITEM_IDS)
    return replace(table, version=version)


@pytest.fixture(
    params=[
        "numpy",
        "onnxruntime",
        pytest.param(
            "executorch",
            marks=[
                pytest.mark.executorch,
                pytest.mark.slow,
                pytest.mark.filterwarnings("ignore"),  # its own imports use what is deprecated
            ],
        ),
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend there is."""
    return str(request.param)


@pytest.fixture(params=CONFIGS)
def backbone(request: pytest.FixtureRequest) -> str:
    """Every kind of backbone there is."""
    return str(request.param)


@pytest.fixture(params=KINDS)
def table(request: pytest.FixtureRequest) -> ItemTable:
    """Items that share rows, rows of 4 bits, and eight codebooks side by side."""
    return compressed(request.param)


@pytest.fixture
def engine(
    request: pytest.FixtureRequest, backend: str, backbone: str, table: ItemTable, tmp_path: Path
) -> Engine:
    """A bundle with such a table under its default plan."""
    model = tiny_model(0, CONFIGS[backbone])
    plan = encode_plan(model.mixed_plan(), None)
    parts = {DEFAULT_PLAN: plan}
    if backend == "executorch":
        parts[PROGRAM] = request.getfixturevalue(model.program_fixture)
    bundle = write_tiny_bundle(tmp_path / "bundle", items=table, parts=parts, config=model.config)
    return build_engine(bundle, plan, EngineSettings(backend=backend, compute="fp32"))


class TestBackends:
    def test_score_as_the_reference(self, engine: Engine, backbone: str, table: ItemTable) -> None:
        """States and scores are those of the embeddings that the rows add up to."""
        model = tiny_model(0, CONFIGS[backbone])
        reference = reference_of(model.frozen, model.mixed_plan().widths, model.config)
        everything = np.arange(1, table.n_items + 1)
        h = reference.state_after(table.embed(np.array([1, 2, 3, 1, 2])))
        expected = reference.score(h, table.embed(everything))

        session = engine.new_session("abcab")

        assert engine.items.item_ids == ITEM_IDS
        np.testing.assert_allclose(
            engine.items.gather(everything).scores(session.h), expected, atol=1e-4
        )

    def test_an_item_taken_in_by_its_row_is_the_same(self, engine: Engine) -> None:
        """A slate's pick, which steps the state with its gathered row, is an event."""
        session, other = engine.new_session("abc"), engine.new_session("abcd")
        rows = engine.items.gather(engine.items.indices_of("xd"))

        session.step(rows.embedding(1))

        np.testing.assert_allclose(session.h, other.h, atol=1e-5)


class TestInstallation:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_proven_and_told(self, kind: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
        """The test vectors come out, and the status says what the table is and takes."""
        table = compressed(kind)
        runtime = Runtime.create(tmp_path / "store", model="demo", backend="numpy")

        runtime.bootstrap(make_bundle(items=table).path)

        pair = runtime.status().current
        assert pair is not None
        assert (pair.n_items, pair.items_version) == (12, 1)
        assert pair.n_item_rows == table.n_rows
        row_number_bytes = 13 * 3 if kind == "shared 8" else 0  # four bytes there, held in one
        assert pair.item_bytes == table.embedding_bytes + row_number_bytes
        assert pair.item_id_bytes == table.id_bytes
        assert [book.bits for book in pair.codebooks] == {
            "shared 8": [],
            "4 bits": [4],
            "product 8": [8] * 8,
        }[kind]

    def test_sizes_are_told_from_the_head_of_the_table(
        self, make_bundle: MakeBundle, tmp_path: Path
    ) -> None:
        """The status does not read the rows, and a table without a head costs only the sizes."""
        table = compressed("4 bits")
        bundle = make_bundle(items=table)
        runtime = Runtime.create(tmp_path / "store", model="demo", backend="numpy")
        runtime.bootstrap(bundle.path)
        (installed,) = (tmp_path / "store").rglob(bundle.part_path(ITEMS).name)
        content = installed.read_bytes()
        told = []

        for damaged in (content[:-1] + b"\x11", content[:4]):
            installed.write_bytes(damaged)
            pair = runtime.status().current
            told.append(None if pair is None else (pair.n_items, pair.item_bytes))

        assert told == [(12, table.embedding_bytes), (12, None)]

    def test_items_that_share_a_row_tie(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        """Whatever the history, they keep the order of the list."""
        table = compressed("shared 8")
        (rows,) = table.row_of_item
        assert rows is not None
        twins = [ITEM_IDS[i - 1] for i in np.flatnonzero(rows == rows[1])]
        runtime = Runtime.create(tmp_path / "store", model="demo", backend="numpy")
        runtime.bootstrap(make_bundle(items=table).path)
        runtime.observe_many(HISTORY)

        ranking = runtime.rerank(twins[::-1], len(twins))

        assert len(twins) > 1
        assert ranking.items == tuple(twins[::-1])
        assert len(set(ranking.scores)) == 1


class TestReplacement:
    """A bundle with the same weights and another item table, from a real server."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_brings_the_table_alone(
        self,
        kind: str,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """Table and vectors are fetched, the plan goes on, and the history counts anew."""
        before, old = ranking_of(device), device.status().current
        bundle = make_bundle(version=2, items=compressed(kind, version=2))
        deployment.publish(bundle)
        middle.calls.clear()

        report = device.sync(middle.target)

        parts = [bundle.manifest.part(name) for name in (ITEMS, VECTORS)]
        assert report.bytes_downloaded == sum(part.length_bytes for part in parts)
        assert {request.target_path for request in middle.requests("FetchChunk")} == {
            "demo/manifest.pb",
            "director.json",
            *(f"parts/{part.sha256.hex()}" for part in parts),
        }
        new = device.status().current
        assert old is not None
        assert new is not None
        assert not report.is_plan_new
        assert (new.plan, new.plan_version) == (old.plan, 1)
        assert new.items_version == 2
        assert ranking_of(device) != before
        assert ranking_after_restart(device) == ranking_of(device)

    def test_is_made_from_the_bundle_that_is_published(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        bundle: BundleFolder,
        tmp_path: Path,
    ) -> None:
        """What ``bundle replace-items`` writes is fetched in part, and runs under the old plan."""
        pytest.importorskip("torch", reason="needs the extra 'cloud'")
        from pocketrec_cloud.item_replacement import ReplacementConfig, replace_items

        config = ReplacementConfig(created_at_s=0)
        made = replace_items(bundle, compressed("product 8"), out=tmp_path / "new", config=config)
        deployment.publish(made)

        report = device.sync(middle.target)

        assert (report.bundle_version, report.parts_downloaded, report.parts_reused) == (2, 2, 5)
        assert not report.is_plan_new
        assert report.bytes_downloaded < sum(p.length_bytes for p in made.manifest.parts) / 4

    def test_computes_the_state_from_the_history(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        bundle: BundleFolder,
    ) -> None:
        """Scores are those of the reference with the new embeddings of the same events."""
        table, engine = compressed("product 8", version=2), device._live.engine
        assert engine is not None
        deployment.publish(make_bundle(version=2, items=table))
        device.sync(middle.target)

        ranking = device.rerank(CANDIDATES, 12)

        frozen = bundle.read_frozen()
        reference = reference_of(frozen, engine.plan.widths, bundle.manifest.backbone)
        h = reference.state_after(table.embed(table.indices_of(HISTORY)))
        expected = reference.score(h, table.embed(table.indices_of(ranking.items)))
        np.testing.assert_allclose(ranking.scores, expected, atol=1e-4)

    def test_that_does_not_prove_itself_leaves_the_pair(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        bundle: BundleFolder,
    ) -> None:
        """With the vectors of the old table the new one is refused, and nothing changes."""
        old_vectors = {VECTORS: bundle.read(VECTORS)}
        items = compressed("4 bits", version=2)
        deployment.publish(make_bundle(version=2, items=items, parts=old_vectors))

        with unharmed(device, HealthCheckError, "test vector 0"):
            device.sync(middle.target)

    def test_can_be_rolled_back_as_a_pair(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """The old table comes back with the plan, and the new one is held back until a newer."""
        before = ranking_of(device)
        deployment.publish(make_bundle(version=2, items=compressed("4 bits", version=2)))
        device.sync(middle.target)

        device.rollback()

        assert ranking_of(device) == before
        assert device.sync(middle.target).is_held_back
        deployment.publish(make_bundle(version=3, items=compressed("shared 8", version=3)))
        report = device.sync(middle.target)
        assert (report.bundle_version, report.plan_version) == (3, 1)
        current = device.status().current
        assert current is not None
        assert (current.codebooks, current.n_item_rows) == ((), 6)

    def test_may_bring_and_drop_items(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """New items can be ranked; a history keeps events on items that are gone for later."""
        items = random_table("shared 4", 8, item_ids=(*ITEM_IDS[1:], "new"))
        deployment.publish(make_bundle(version=2, items=replace(items, version=2)))

        device.sync(middle.target)

        ranking = device.rerank(("new", *CANDIDATES), 13)
        assert ranking.items[-1] == "a"
        assert ranking.scores[-1] == -np.inf
        assert np.isfinite(ranking.scores[:-1]).all()
