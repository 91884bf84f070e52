# SPDX-License-Identifier: Apache-2.0
"""A planner file and the embeddings of a few users, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.quantization.hypernetwork_samples import LAYERS, random_planner, random_users

from pocketrec_cloud.planning.fleet import FleetJob
from pocketrec_cloud.planning.user_embeddings import write_user_embeddings
from pocketrec_quantization.budget import budget_bytes

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
