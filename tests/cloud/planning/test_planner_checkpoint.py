# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pocketrec.errors import ArtifactError, IncompatibleArtifactError, MalformedArtifactError
from pocketrec_cloud.bundling import freeze_backbone
from pocketrec_cloud.checkpoint import load_backbone, read_tensors, write_tensors
from pocketrec_cloud.planning.planner_checkpoint import TrainedPlanner, load_planner
from pocketrec_quantization.budget import budget_bytes

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained

    from pocketrec_cloud.planning.planner_training import PlannerResult

pytestmark = pytest.mark.usefixtures("one_thread")


class TestRoundTrip:
    def test_all_parts_come_back(
        self,
        planner_file: tuple[TrainedPlanner, Path],
        trained_planner: PlannerResult,
        tiny_training: Trained,
    ) -> None:
        """Bit for bit, with ids, facts, and what the training was told beside its parts."""
        _, path = planner_file
        planned = trained_planner.planned

        loaded = load_planner(path)

        assert loaded.item_ids == tiny_training.split.dataset.item_ids
        assert loaded.facts == {"note": [1, 2]}
        assert loaded.extract_window == planned.config.extract_window == 12
        assert loaded.planner.high_share == planned.config.high_share == 0.25
        plain = planned.mixed.plain().state_dict()
        assert all(torch.equal(plain[k], v) for k, v in loaded.model.state_dict().items())
        gru = planned.extractor.state_dict()
        assert all(torch.equal(gru[k], v) for k, v in loaded.extractor.state_dict().items())
        assert not loaded.model.training

    def test_saving_returns_what_will_be_read(
        self, planner_file: tuple[TrainedPlanner, Path]
    ) -> None:
        """The same planner file for the server."""
        saved, path = planner_file

        assert saved.planner.to_bytes() == load_planner(path).planner.to_bytes()

    def test_plans_are_those_that_were_trained(
        self,
        planner_file: tuple[TrainedPlanner, Path],
        trained_planner: PlannerResult,
        tiny_training: Trained,
    ) -> None:
        """On other budgets as well."""
        planned, split = trained_planner.planned, tiny_training.split
        z = planned.user_embeddings([split.history(int(user), "test") for user in split.users])
        for bits in (2.5, 3.0, 5.0):
            budget = budget_bytes(planned.mixed.layers, bits)
            found = planner_file[0].planner.plan(z.numpy(), budget)
            assert (found == planned.codes(z, bits).numpy()).mean() > 0.99

    def test_it_is_bound_to_its_model(self, planner_file: tuple[TrainedPlanner, Path]) -> None:
        """By the digest of the frozen part, which embeddings are no part of but biases are."""
        saved, _ = planner_file

        assert saved.planner.model_digest == freeze_backbone(saved.model).digest

    def test_what_was_trained_stays_usable(
        self, planner_file: tuple[TrainedPlanner, Path], trained_planner: PlannerResult
    ) -> None:
        """Saving takes copies: training could go on."""
        before = planner_file[0].planner.arrays["score/shift"].copy()
        saved = load_planner(planner_file[1])
        with torch.no_grad():
            saved.model.item_embedding.weight.add_(1.0)

        planned = trained_planner.planned
        assert planned.hypernetworks.shift.requires_grad
        assert np.array_equal(planned.planner(bytes(32)).arrays["score/shift"], before)


class TestRefusals:
    @pytest.fixture
    def parts(
        self, planner_file: tuple[TrainedPlanner, Path]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and header of a file that is read."""
        return read_tensors(planner_file[1])

    def test_a_backbone_is_no_planner(self, tiny_training: Trained) -> None:
        """The message says what makes one."""
        with pytest.raises(IncompatibleArtifactError, match=r"planner train.*found kind 'sasrec'"):
            load_planner(tiny_training.checkpoint)

    def test_a_planner_is_no_backbone(self, planner_file: tuple[TrainedPlanner, Path]) -> None:
        """Although it holds one."""
        with pytest.raises(IncompatibleArtifactError, match="found 'planner'"):
            load_backbone(planner_file[1])

    @pytest.mark.parametrize("keep", [0, 7, 400, -1])
    def test_a_file_that_was_cut_off(
        self, planner_file: tuple[TrainedPlanner, Path], tmp_path: Path, keep: int
    ) -> None:
        """Wherever."""
        path = tmp_path / "cut.safetensors"
        path.write_bytes(planner_file[1].read_bytes()[:keep])

        with pytest.raises(MalformedArtifactError, match="cut"):
            load_planner(path)

    @pytest.mark.parametrize(
        ("entry", "value"),
        [
            ("backbone", None),
            ("networks", None),
            ("networks", {"embedding_dim": 16, "hidden_dim": 8, "rank": 2}),
            ("networks", {"embedding_dim": 16, "hidden_dim": 8, "rank": 3, "terms": ["layer"]}),
            ("networks", {"embedding_dim": 16, "depth": 8, "rank": 2, "terms": []}),
            ("networks", {"embedding_dim": 16, "hidden_dim": 8, "rank": 2, "terms": 1}),
            ("high_share", None),
            ("high_share", 2.0),
            ("extract_window", None),
            ("extract_window", 0),
        ],
    )
    def test_entries_that_cannot_be(
        self,
        parts: tuple[dict[str, torch.Tensor], dict[str, Any]],
        tmp_path: Path,
        entry: str,
        value: object,
    ) -> None:
        """The file is named, and what to do."""
        tensors, header = parts
        path = tmp_path / "odd.safetensors"
        write_tensors(path, tensors, {**header, entry: value})

        with pytest.raises(MalformedArtifactError, match=r"odd\.safetensors.*train again"):
            load_planner(path)

    @pytest.mark.parametrize("entry", ["networks", "high_share", "extract_window"])
    def test_entries_that_are_missing(
        self,
        parts: tuple[dict[str, torch.Tensor], dict[str, Any]],
        tmp_path: Path,
        entry: str,
    ) -> None:
        """Likewise."""
        tensors, header = parts
        del header[entry]
        write_tensors(tmp_path / "odd.safetensors", tensors, header)

        with pytest.raises(MalformedArtifactError, match="train again"):
            load_planner(tmp_path / "odd.safetensors")

    @pytest.mark.parametrize(
        "name",
        [
            "backbone.blocks.0.q.weight",
            "extractor.gru.bias_ih_l0",
            "networks.score/gain",
            "networks.filter/blocks.0.q/weight",
        ],
    )
    @pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
    def test_tensors_that_are_not_right(
        self,
        parts: tuple[dict[str, torch.Tensor], dict[str, Any]],
        tmp_path: Path,
        name: str,
        damage: str,
    ) -> None:
        """Missing, of another shape, or no numbers."""
        tensors, header = parts
        if damage == "missing":
            del tensors[name]
        elif damage == "shape":
            tensors[name] = tensors[name][:-1]
        else:
            tensors[name] = torch.full_like(tensors[name], torch.nan)
        path = tmp_path / "odd.safetensors"
        write_tensors(path, tensors, header)

        with pytest.raises(ArtifactError, match=r"odd\.safetensors"):
            load_planner(path)
