# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    InfeasibleBudgetError,
    QuantizationError,
)
from pocketrec_cloud import proving
from pocketrec_cloud.bundling import (
    CASES,
    FLOAT_TWIN,
    PLANNER,
    SENSITIVITY,
    BuildConfig,
    build_bundle,
    freeze_backbone,
)
from pocketrec_cloud.export import coded_names, device_form
from pocketrec_cloud.proving import score_tolerance
from pocketrec_device.health import build_healthy_engine
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.budget import budget_bytes, coded_bytes, effective_bits
from pocketrec_quantization.bundle import (
    CARD,
    DEFAULT_PLAN,
    EXTRACT,
    EXTRACT_VECTORS,
    PREFILL,
    SCORE,
    STEP,
    BackboneConfig,
    ExtractorInfo,
)
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.planners import GlobalPlanner, sensitivity_from_bytes
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.testing import tiny_personal_planner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cloud.conftest import Built, Trained

    from pocketrec_cloud.extractor import Extractor
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.personal import PersonalPlanner

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def build(tiny_training: Trained, tmp_path: Path) -> Callable[..., BundleFolder]:
    """Builds the tiny model again."""
    config = BuildConfig(model_name="tiny", version=3, created_at_s=1_700_000_000)

    def build(
        item_ids: tuple[str, ...] | None = None,
        extractor: Extractor | None = None,
        planner: PersonalPlanner | None = None,
        **changes: Any,
    ) -> BundleFolder:
        return build_bundle(
            tiny_training.result.model,
            tiny_training.split.dataset.item_ids if item_ids is None else item_ids,
            tiny_training.split,
            out=tmp_path,
            config=replace(config, **changes),
            facts={},
            extractor=extractor,
            planner=planner,
        )

    return build


class TestBundle:
    def test_the_bundle_verifies(self, tiny_build: Built) -> None:
        """Every part is what the manifest says, and the parts agree with each other."""
        tiny_build.bundle.verify()

        manifest = tiny_build.bundle.manifest
        assert (manifest.model_name, manifest.version, manifest.license) == ("tiny", 3, "CC0-1.0")
        assert manifest.backbone == BackboneConfig(
            kind="sasrec", embedding_dim=16, n_blocks=2, n_heads=2, window=8, ffn_multiplier=2
        )
        assert (manifest.items.n_items, manifest.items.version) == (60, 3)

    @pytest.mark.parametrize("backend", ["numpy", "onnxruntime"])
    def test_the_vectors_come_out_on_devices(self, tiny_build: Built, backend: str) -> None:
        """A device's health check passes, by prefill and by step."""
        plan = tiny_build.bundle.read(DEFAULT_PLAN)

        engine = build_healthy_engine(tiny_build.bundle, plan, EngineSettings(backend=backend))

        assert engine.backend.name == backend

    def test_the_vectors_cover_the_window(self, tiny_build: Built) -> None:
        """The shortest and the longest history are among the cases."""
        lengths = [len(case.history) for case in tiny_build.bundle.read_vectors().cases]

        assert lengths[:2] == [1, 8]
        assert all(1 <= length <= 8 for length in lengths)

    def test_the_default_plan_is_the_global_one(self, tiny_build: Built) -> None:
        """It spends 3 bits on average where the sensitivity says."""
        plan = tiny_build.bundle.read_default_plan()
        losses = sensitivity_from_bytes((tiny_build.folder / SENSITIVITY).read_bytes())
        budget = budget_bytes(plan.layers, 3.0)

        expected = GlobalPlanner(plan.layers, losses).plan([None], budget)[0]

        assert plan.planner == "global"
        assert plan.budget_bytes == budget
        assert np.array_equal(plan.codes, expected)
        assert coded_bytes(plan.layers, plan.widths) <= budget

    def test_the_card_says_what_is_inside(self, tiny_build: Built) -> None:
        """Name, plan, size of each part, and the facts handed over."""
        card = json.loads(tiny_build.bundle.read(CARD))
        plan = tiny_build.bundle.read_default_plan()

        assert (card["model_name"], card["version"]) == ("tiny", 3)
        assert card["validation_ndcg@10"] == 0.5
        assert card["default_plan"] == {
            "planner": "global",
            "coded_bytes": coded_bytes(plan.layers, plan.widths),
            "effective_bits": effective_bits(plan.layers, plan.widths),
        }
        parts = {part.name: part.length_bytes for part in tiny_build.bundle.manifest.parts}
        assert card["part_bytes"] == {n: size for n, size in parts.items() if n != CARD}

    def test_item_ids_keep_their_order(self, tiny_build: Built, tiny_training: Trained) -> None:
        """Index i of the table is index i of the training data, within int8 of its embedding."""
        items = tiny_build.bundle.read_items()
        exact = device_form(tiny_training.result.model).item_embedding.weight.detach().numpy()

        assert items.item_ids == tiny_training.split.dataset.item_ids
        error = np.abs(items.embed(np.arange(61)) - exact).max(axis=1)
        assert (error <= np.abs(exact).max(axis=1) / 127).all()


class TestFilesBeside:
    def test_cases_are_exactly_the_test_targets(
        self, tiny_build: Built, tiny_training: Trained
    ) -> None:
        """Every evaluated user, with all events before the last, and the last as target."""
        split = tiny_training.split
        cases = EvaluationCases.from_bytes((tiny_build.folder / CASES).read_bytes())

        assert (cases.n_cases, cases.n_items) == (split.users.size, 60)
        for case, user in enumerate(split.users):
            assert np.array_equal(cases.history(case), split.history(int(user), "test"))
            assert cases.targets[case] == split.target(int(user), "test")

    def test_the_float_twin_is_the_trained_model(
        self, tiny_build: Built, tiny_training: Trained
    ) -> None:
        """Weights and embeddings are those of the device form, bit for bit."""
        model = device_form(tiny_training.result.model)
        twin = FloatTwin.from_bytes((tiny_build.folder / FLOAT_TWIN).read_bytes())

        assert sorted(twin.weights) == sorted(f"{name}.weight" for name in coded_names(model))
        for name, array in twin.weights.items():
            assert np.array_equal(array, model.get_parameter(name).detach().numpy())
        embeddings = model.item_embedding.weight.detach().numpy()
        assert np.array_equal(twin.item_embeddings, embeddings)

    def test_nobodys_events_are_in_the_bundle(
        self, tiny_build: Built, tiny_training: Trained
    ) -> None:
        """Test vectors are generated: no part holds a whole history of a user."""
        split = tiny_training.split
        parts = [tiny_build.bundle.read(part.name) for part in tiny_build.bundle.manifest.parts]

        for user in split.users:
            events = split.dataset.sequence(int(user)).tobytes()
            assert not any(events in part for part in parts)


class TestBuildBundle:
    def test_a_build_can_be_repeated(
        self, build: Callable[..., BundleFolder], tiny_build: Built
    ) -> None:
        """The same model, data and seed give the same weights, plan, vectors and graphs."""
        again = build()

        for name in ("frozen", "items", "vectors", DEFAULT_PLAN, PREFILL, STEP, SCORE):
            assert again.manifest.part(name).sha256 == tiny_build.bundle.manifest.part(name).sha256

    def test_a_budget_is_kept(self, build: Callable[..., BundleFolder]) -> None:
        """Two bits on average leave nothing to upgrade."""
        plan = build(average_bits=2.0).read_default_plan()

        assert set(plan.widths.tolist()) == {2}

    def test_too_small_a_budget_is_refused(self, build: Callable[..., BundleFolder]) -> None:
        """No plan goes below 2 bits."""
        with pytest.raises(InfeasibleBudgetError):
            build(average_bits=1.0)

    def test_the_number_of_cases_is_bounded(
        self, build: Callable[..., BundleFolder], tiny_training: Trained, tmp_path: Path
    ) -> None:
        """A sample of the users is kept, in their order and with their own targets."""
        split = tiny_training.split
        build(max_cases=20)

        cases = EvaluationCases.from_bytes((tmp_path / CASES).read_bytes())

        everybody = [
            (tuple(split.history(int(u), "test")), split.target(int(u), "test"))
            for u in split.users
        ]
        kept = [(tuple(cases.history(i)), int(cases.targets[i])) for i in range(cases.n_cases)]
        places = [everybody.index(case) for case in kept]
        assert len(kept) == 20
        assert places == sorted(places)

    def test_another_catalogue_is_refused(self, build: Callable[..., BundleFolder]) -> None:
        """There must be an id for every embedding."""
        with pytest.raises(ConfigError):
            build(item_ids=("a", "b"))

    def test_a_reference_that_disagrees_stops_the_build(
        self, build: Callable[..., BundleFolder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """If trained model and reference differ by more than float32 may, nothing is written."""
        monkeypatch.setattr(proving, "score_tolerance", lambda *_: 1e-12)

        with pytest.raises(QuantizationError, match="do not publish"):
            build()
        assert list(tmp_path.iterdir()) == []


class TestPersonal:
    @pytest.fixture
    def extractor(self) -> Extractor:
        """An extractor that was not trained, which does as well here."""
        import torch

        from pocketrec_cloud.extractor import Extractor

        torch.manual_seed(0)
        return Extractor(16)

    @pytest.fixture
    def planner(self, tiny_training: Trained) -> PersonalPlanner:
        """A planner for the frozen part that the tiny model will have."""
        frozen = freeze_backbone(tiny_training.result.model)
        return tiny_personal_planner(frozen.layers, frozen.digest, 16)

    def test_an_extractor_becomes_a_part(
        self, build: Callable[..., BundleFolder], extractor: Extractor, tiny_training: Trained
    ) -> None:
        """From the bundle's rows it gives what it gave in training, but for their rounding."""
        import torch

        bundle = build(extractor=extractor, extract_window=20)

        assert bundle.manifest.extractor == ExtractorInfo(kind="gru", window=20)
        lengths = [len(case.history) for case in bundle.read_extract_vectors().cases]
        assert lengths[:2] == [1, 20]
        history = np.array([3, 1, 60, 7, 7, 12])
        z = bundle.read_extractor().embed(bundle.read_items().embed(history))
        with torch.no_grad():
            model = tiny_training.result.model
            x = model.item_embedding(torch.from_numpy(history)) * model.input_scale
            trained = extractor(x[None], torch.tensor([6]))[0].numpy()
        assert np.linalg.norm(z - trained) < 0.01 * np.linalg.norm(trained)
        effect = json.loads(bundle.read(CARD))["extractor"]["int8_rows"]
        assert 0 < effect["relative"] < 0.01

    def test_a_planner_stays_beside_the_bundle(
        self,
        build: Callable[..., BundleFolder],
        extractor: Extractor,
        planner: PersonalPlanner,
        tmp_path: Path,
    ) -> None:
        """The server gets it from the build folder; devices never do."""
        bundle = build(extractor=extractor, planner=planner)

        content = (tmp_path / PLANNER).read_bytes()
        assert content == planner.to_bytes()
        assert all(bundle.read(part.name) != content for part in bundle.manifest.parts)

    def test_a_planner_of_other_weights_is_refused(
        self,
        build: Callable[..., BundleFolder],
        extractor: Extractor,
        planner: PersonalPlanner,
        tmp_path: Path,
    ) -> None:
        """Nothing is written for a planner that no device could be planned with."""
        stranger = replace(planner, model_digest=bytes(32), arrays=dict(planner.arrays))

        with pytest.raises(IncompatibleArtifactError, match="model_digest"):
            build(extractor=extractor, planner=stranger)
        with pytest.raises(IncompatibleArtifactError, match="with an extractor"):
            build(planner=planner)
        assert list(tmp_path.iterdir()) == []

    def test_without_them_a_bundle_is_what_it_was(self, tiny_build: Built) -> None:
        """No part, no field, and the schema of before."""
        manifest = tiny_build.bundle.manifest

        assert (manifest.extractor, manifest.schema_minor) == (None, 0)
        assert not {EXTRACT, EXTRACT_VECTORS} & {part.name for part in manifest.parts}


class TestScoreTolerance:
    CONFIG = BackboneConfig(
        kind="sasrec", embedding_dim=64, n_blocks=2, n_heads=2, window=50, ffn_multiplier=1
    )

    def test_it_grows_with_the_scores(self) -> None:
        """Rounding is relative: twice the score, twice the error; small scores count as 1."""
        assert score_tolerance(self.CONFIG, 8.0) == 2 * score_tolerance(self.CONFIG, 4.0)
        assert score_tolerance(self.CONFIG, 0.1) == score_tolerance(self.CONFIG, 1.0)

    def test_it_is_far_below_what_a_wrong_plan_does(self, tiny_build: Built) -> None:
        """The health check would notice 2 bits in place of the default plan."""
        bundle = tiny_build.bundle
        vectors, items = bundle.read_vectors(), bundle.read_items()
        coarse = np.full(bundle.read_default_plan().widths.shape, 2, np.uint8)
        wrong = ReferenceBackend.from_model(bundle.read_frozen(), coarse, bundle.manifest.backbone)

        errors = [
            np.abs(
                wrong.score(wrong.prefill(items.embed(c.history)).h, items.embed(c.candidates))
                - c.scores
            ).max()
            for c in vectors.cases
        ]

        assert min(errors) > 100 * vectors.tolerance_of("onnxruntime")
