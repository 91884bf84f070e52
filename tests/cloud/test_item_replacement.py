# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.commands import run_command, run_command_json

from pocketrec.errors import ConfigError, IncompatibleArtifactError, QuantizationError
from pocketrec_cloud.bundling import (
    BUNDLE_FOLDER,
    CASES,
    FLOAT_TWIN,
    PLANNER,
    SENSITIVITY,
    BuildConfig,
    build_bundle,
)
from pocketrec_cloud.item_replacement import ReplacementConfig, replace_items
from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_device.engine import EngineSettings
from pocketrec_device.health import build_healthy_engine
from pocketrec_quantization.bundle import (
    CARD,
    DEFAULT_PLAN,
    EXTRACT_VECTORS,
    ITEMS,
    STEP,
    VECTORS,
    BundleFolder,
    write_bundle,
)
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.testing import TABLE_KINDS, random_table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cloud.conftest import Built, Trained

pytestmark = pytest.mark.usefixtures("one_thread")

NOW_S = 1_800_000_000
COMMANDS = {
    "bundle.replace-items": "pocketrec_cloud.items_cli:bundle_replace_items",
    "bundle.verify": "pocketrec_quantization.cli:bundle_verify",
}


def make(bundle: BundleFolder, items: ItemTable, out: Path, **changes: Any) -> BundleFolder:
    """Replace the table of a bundle."""
    config = ReplacementConfig(created_at_s=NOW_S, **changes)
    return replace_items(bundle, items, out=out, config=config)


@pytest.fixture
def item_ids(tiny_build: Built) -> tuple[str, ...]:
    """The items of the tiny bundle."""
    return tiny_build.bundle.read_items().item_ids


class TestParts:
    @pytest.mark.parametrize("kind", TABLE_KINDS)
    def test_all_but_the_table_and_its_proof_are_the_same(
        self, kind: str, tiny_build: Built, item_ids: tuple[str, ...], tmp_path: Path
    ) -> None:
        """Weights, graphs and plan keep their digests, so devices and plans keep them."""
        old = tiny_build.bundle

        made = make(old, random_table(kind, 16, item_ids=item_ids), tmp_path)

        digests = {part.name: part.sha256 for part in old.manifest.parts}
        new = {part.name for part in made.manifest.parts if part.sha256 != digests[part.name]}
        assert new == {ITEMS, VECTORS, CARD}
        assert made.model_digest == old.model_digest
        assert (made.manifest.version, made.manifest.items.version) == (4, 4)

    def test_it_runs_on_a_device(
        self, tiny_build: Built, item_ids: tuple[str, ...], tmp_path: Path
    ) -> None:
        """The new vectors come out in ONNX Runtime; with the old ones they would not."""
        made = make(tiny_build.bundle, random_table("product 4", 16, item_ids=item_ids), tmp_path)

        engine = build_healthy_engine(made, made.read(DEFAULT_PLAN), EngineSettings())

        assert engine.items.item_ids == item_ids
        new, old = (each.read_vectors().cases[0].scores for each in (made, tiny_build.bundle))
        assert np.abs(new - old).max() > 0.1

    def test_the_card_tells_of_the_new_table(
        self, tiny_build: Built, item_ids: tuple[str, ...], tmp_path: Path
    ) -> None:
        """Codebooks and bytes are there, beside what was known of the model."""
        table = random_table("shared 4", 16, item_ids=item_ids)

        card = json.loads(make(tiny_build.bundle, table, tmp_path).read(CARD))

        assert card["validation_ndcg@10"] == 0.5
        assert card["version"] == 4
        assert card["part_bytes"][ITEMS] == len(replace(table, version=4).to_bytes())
        assert card["item_table"]["codebooks"] == [
            {"n_rows": 30, "bits": 4, "begin": 0, "width": 16}
        ]
        assert card["item_table"]["packed_bytes"] == 30 * (8 + 4) + 61
        assert card["item_table"]["float_bytes"] == 61 * 16 * 4

    def test_the_extractor_reads_the_new_rows(
        self, tiny_training: Trained, item_ids: tuple[str, ...], tmp_path: Path
    ) -> None:
        """Its graph stays, its vectors are made anew, and what was measured is forgotten."""
        import torch

        from pocketrec_cloud.extractor import Extractor

        torch.manual_seed(0)
        old = build_bundle(
            tiny_training.result.model,
            item_ids,
            tiny_training.split,
            out=tmp_path / "old",
            config=BuildConfig(model_name="tiny", version=1, created_at_s=NOW_S, extract_window=9),
            facts={},
            extractor=Extractor(16),
        )

        made = make(old, random_table("4 bits", 16, item_ids=item_ids), tmp_path / "new")

        (case, *_), items = made.read_extract_vectors().cases, made.read_items()
        z = made.read_extractor().embed(items.embed(case.history))
        np.testing.assert_allclose(z, case.z, atol=1e-6)
        assert made.read(EXTRACT_VECTORS) != old.read(EXTRACT_VECTORS)
        assert json.loads(made.read(CARD))["extractor"] == {"window": 9}


class TestFilesBeside:
    def test_what_depends_on_weights_is_copied(
        self, tiny_build: Built, item_ids: tuple[str, ...], tmp_path: Path
    ) -> None:
        """With the same items, the float twin and the cases stay as they are, too."""
        make(tiny_build.bundle, random_table("one scale", 16, item_ids=item_ids), tmp_path)

        names = {path.name for path in tmp_path.iterdir()}
        assert names == {BUNDLE_FOLDER, SENSITIVITY, CASES, FLOAT_TWIN}
        for name in (SENSITIVITY, CASES, FLOAT_TWIN):
            assert (tmp_path / name).read_bytes() == (tiny_build.folder / name).read_bytes()

    def test_cases_are_told_in_the_new_indices(
        self, tiny_build: Built, item_ids: tuple[str, ...], tmp_path: Path
    ) -> None:
        """By id they are the same, without events on items that are gone."""
        kept = (*item_ids[:9:-1], "new")
        before = EvaluationCases.from_bytes((tiny_build.folder / CASES).read_bytes())

        made = make(tiny_build.bundle, random_table("shared 8", 16, item_ids=kept), tmp_path)

        after = EvaluationCases.from_bytes((tmp_path / CASES).read_bytes())
        told = [
            ([kept[i - 1] for i in after.history(case)], kept[target - 1])
            for case, target in enumerate(after.targets)
        ]
        expected = [
            ([i for i in (item_ids[i - 1] for i in before.history(case)) if i in kept], target)
            for case, target in enumerate(item_ids[i - 1] for i in before.targets)
        ]
        assert told == [each for each in expected if each[0] and each[1] in kept]
        assert (after.n_items, made.manifest.items.n_items) == (51, 51)
        assert not (tmp_path / FLOAT_TWIN).exists()
        assert not (tmp_path / PLANNER).exists()

    def test_cases_without_anything_left_are_none(self, tiny_build: Built, tmp_path: Path) -> None:
        """A catalogue of new items has no held-out users yet."""
        make(tiny_build.bundle, random_table("shared 8", 16, item_ids=("x", "y", "z")), tmp_path)

        assert not (tmp_path / CASES).exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [({"version": 3}, "version: expected above 3"), ({"table_version": 3}, "table_version")],
    )
    def test_versions_only_go_up(
        self,
        changes: dict[str, int],
        complaint: str,
        tiny_build: Built,
        item_ids: tuple[str, ...],
        tmp_path: Path,
    ) -> None:
        """Devices would refuse the bundle, so it is not made."""
        with pytest.raises(ConfigError, match=complaint):
            make(
                tiny_build.bundle,
                random_table("shared 8", 16, item_ids=item_ids),
                tmp_path / "out",
                **changes,
            )

        assert not (tmp_path / "out").exists()

    def test_embeddings_of_another_dimension(self, tiny_build: Built, tmp_path: Path) -> None:
        """The table is for another model."""
        with pytest.raises(IncompatibleArtifactError, match=r"of 16 dimensions .* got 8"):
            make(tiny_build.bundle, random_table("shared 8", 8), tmp_path)

    def test_the_old_bundles_own_folder(self, tiny_build: Built, tmp_path: Path) -> None:
        """What devices may be fetching is not written over."""
        with pytest.raises(ConfigError, match="another folder"):
            make(tiny_build.bundle, random_table("shared 8", 16), tiny_build.folder)

        assert not list(tmp_path.iterdir())

    def test_the_files_beside_the_old_bundle(self, tiny_build: Built, tmp_path: Path) -> None:
        """A bundle of another name keeps the evaluation cases that are told in its indices."""
        shutil.copytree(tiny_build.folder, tmp_path, dirs_exist_ok=True)
        old = tiny_build.bundle.path.relative_to(tiny_build.folder)
        bundle = BundleFolder.open((tmp_path / old).rename(tmp_path / "published"))
        cases = (tmp_path / CASES).read_bytes()

        with pytest.raises(ConfigError, match="files beside"):
            make(bundle, random_table("shared 8", 16), tmp_path)

        assert (tmp_path / CASES).read_bytes() == cases

    def test_graphs_that_compute_something_else(
        self, tiny_build: Built, item_ids: tuple[str, ...], tmp_path: Path
    ) -> None:
        """A graph is compared with the reference again, on the new rows."""
        old = tiny_build.bundle
        parts = {part.name: old.read(part.name) for part in old.manifest.parts}
        dense = {name: array + 1 for name, array in old.read_frozen().dense.items()}
        parts[STEP] = write_graphs(dense, old.manifest.backbone)["step"]
        write_bundle(tmp_path / "bad", replace(old.manifest, parts=()), parts)
        bad = BundleFolder.open(tmp_path / "bad")

        with pytest.raises(QuantizationError, match="do not publish this bundle"):
            make(bad, random_table("shared 8", 16, item_ids=item_ids), tmp_path / "out")


def test_the_command_says_what_devices_fetch(
    tiny_build: Built, item_ids: tuple[str, ...], tmp_path: Path
) -> None:
    """As a user types it: new parts and their bytes, and a bundle that verifies."""
    path = tmp_path / "items"
    path.write_bytes(random_table("product 8", 16, item_ids=item_ids).to_bytes())
    words = (tiny_build.bundle.path, path, "--out", tmp_path / "out", "--table-version", 9)

    result = partial(run_command_json, COMMANDS)("bundle.replace-items", *words)

    assert result["new_parts"] == [CARD, ITEMS, VECTORS]
    assert (result["version"], result["table_version"]) == (4, 9)
    assert result["new_bytes"] == sum(result["parts"][name] for name in result["new_parts"])
    shown = partial(run_command, COMMANDS)("bundle.verify", tmp_path / "out" / BUNDLE_FOLDER)
    assert "come out" in shown.stdout
