# SPDX-License-Identifier: Apache-2.0
"""A trained tiny planner, and a planner file with the embeddings of a few users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.quantization.hypernetwork_samples import LAYERS, random_planner, random_users

from pocketrec_cloud.planning.fleet import FleetJob
from pocketrec_cloud.planning.user_embeddings import write_user_embeddings
from pocketrec_quantization.budget import budget_bytes

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.planning.configuration import PlannerTraining
    from pocketrec_cloud.planning.planner_checkpoint import TrainedPlanner
    from pocketrec_cloud.planning.planner_training import PlannerResult


N_USERS = 50


@pytest.fixture
def job(tmp_path: Path) -> FleetJob:
    """Fifty users in shards of twenty, in row groups of fifteen."""
    (tmp_path / "planner.safetensors").write_bytes(random_planner().to_bytes())
    subjects = [f"user-{number}" for number in range(N_USERS)]
    write_user_embeddings(tmp_path / "users.parquet", subjects, random_users(N_USERS), group=15)
    return FleetJob(
        planner=tmp_path / "planner.safetensors",
        embeddings=tmp_path / "users.parquet",
        out=tmp_path / "plans",
        budget_bytes=budget_bytes(LAYERS, 3.0),
        shard_users=20,
    )


@pytest.fixture(scope="session")
def planning() -> PlannerTraining:
    """Four short epochs, two evaluations; windows and shares that are not the defaults."""
    from pocketrec_cloud.planning.configuration import PlannerTraining

    return PlannerTraining(
        max_epochs=4,
        evaluate_every=2,
        tokens_per_batch=800,
        learning_rate=3e-3,
        planner_learning_rate=3e-3,
        n_negatives=60,
        extract_window=12,
        n_targets=6,
        hidden_dim=8,
        rank=2,
        high_share=0.25,
        seed=3,
    )


@pytest.fixture(scope="session")
def trained_planner(tiny_training: Trained, planning: PlannerTraining) -> PlannerResult:
    """A personal planner of the tiny backbone; do not train it further."""
    from pocketrec_cloud.planning.planner_training import train_planner

    return train_planner(tiny_training.split, tiny_training.result.model, planning)


@pytest.fixture(scope="session")
def planner_file(
    trained_planner: PlannerResult,
    tiny_training: Trained,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[TrainedPlanner, Path]:
    """The same in a file, and what was returned when it was saved."""
    from pocketrec_cloud.planning.planner_checkpoint import save_planner

    path = tmp_path_factory.mktemp("planner") / "trained.safetensors"
    item_ids = tiny_training.split.dataset.item_ids
    return save_planner(path, trained_planner.planned, item_ids, {"note": [1, 2]}), path


@pytest.fixture(scope="session", params=["sasrec", "caser"])
def backbone(request: pytest.FixtureRequest, one_thread: None) -> Backbone:
    """A small backbone of each kind with random weights, biases and norms too."""
    import torch

    from pocketrec_cloud.backbones.caser import CaserConfig
    from pocketrec_cloud.backbones.registry import make_backbone
    from pocketrec_cloud.backbones.sasrec import SASRecConfig

    sizes = {"n_items": 60, "embedding_dim": 16, "window": 8, "dropout": 0.0}
    shapes = {
        "sasrec": SASRecConfig(**sizes, n_blocks=2),
        "caser": CaserConfig(**sizes, max_height=3, n_horizontal=5, n_vertical=3),
    }
    torch.manual_seed(1)
    model = make_backbone(shapes[request.param]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "item_embedding.weight":
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
