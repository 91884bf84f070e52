# SPDX-License-Identifier: Apache-2.0
"""``plan make`` with a personal planner: for one user, and for all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.quantization.hypernetwork_samples import random_planner, random_users

from pocketrec.errors import ConfigError, IncompatibleArtifactError, MissingExtraError
from pocketrec_cloud.planning import engines
from pocketrec_cloud.planning.cli import plan_make
from pocketrec_cloud.planning.plan_shards import PlanShard
from pocketrec_cloud.planning.user_embeddings import write_user_embeddings
from pocketrec_quantization.bundle import BundleFolder, write_bundle
from pocketrec_quantization.personal import HypernetworkConfig, PersonalPlanner
from pocketrec_quantization.plan import decode_plan
from pocketrec_quantization.testing import tiny_manifest, tiny_parts

USERS = random_users(30, dim=4)


@dataclass(frozen=True)
class Given:
    """A bundle, its planner and its users."""

    folder: Path
    planner: PersonalPlanner

    def run(self, *words: object) -> Result:
        """Run the command on the bundle."""
        start: Sequence[object] = ("--bundle", self.folder / "bundle", "--out", self.folder / "out")
        return CliRunner().invoke(plan_make, [str(word) for word in (*start, *words)])

    def options(self) -> tuple[object, ...]:
        """Return what ``--all-users`` needs."""
        return (
            *("--all-users", "--shard-users", 16, "--workers", 1),
            *("--planner-file", self.folder / "planner.safetensors"),
            *("--embeddings", self.folder / "users.parquet"),
        )


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """A tiny bundle and a planner with random networks for it."""
    write_bundle(tmp_path / "bundle", tiny_manifest(), tiny_parts())
    bundle = BundleFolder.open(tmp_path / "bundle")
    config = HypernetworkConfig(embedding_dim=4, hidden_dim=3, rank=2)
    random = random_planner(config, bundle.manifest.layers)
    planner = replace(random, arrays=dict(random.arrays), model_digest=bundle.model_digest)
    (tmp_path / "planner.safetensors").write_bytes(planner.to_bytes())
    write_user_embeddings(tmp_path / "users.parquet", [f"u{n}" for n in range(30)], USERS)
    return Given(tmp_path, planner)


def test_one_user_gets_a_plan(given: Given) -> None:
    """From an embedding in a file."""
    np.save(given.folder / "z.npy", USERS[3])

    result = given.run(
        *("--planner", "personal", "--planner-file", given.folder / "planner.safetensors"),
        *("--embedding", given.folder / "z.npy", "--average-bits", 3),
    )

    assert result.exit_code == 0, result.output
    plan = decode_plan((given.folder / "out").read_bytes())
    assert plan.planner == "personal"
    assert plan.codes.tolist() == given.planner.plan_bits(USERS[3:4], 3.0)[0].tolist()


def test_without_an_embedding_it_is_the_average_users(given: Given) -> None:
    """As a server plans for somebody it does not know."""
    result = given.run(
        "--planner", "personal", "--planner-file", given.folder / "planner.safetensors"
    )

    assert result.exit_code == 0, result.output
    plan = decode_plan((given.folder / "out").read_bytes())
    assert plan.codes.tolist() == given.planner.plan_bits([None], 3.0)[0].tolist()


def test_all_users_get_plans(given: Given) -> None:
    """Progress is on stderr, the result on stdout."""
    result = given.run(*given.options(), "--average-bits", 4, "--json", "-")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["n_users"], found["n_planned"], found["n_shards"]) == (30, 30, 2)
    shard = PlanShard(given.folder / "out" / "shards" / "00001.parquet")
    assert shard.subjects == [f"u{n}" for n in range(16, 30)]
    np.testing.assert_array_equal(shard.codes(), given.planner.plan_bits(USERS[16:], 4.0))


def test_a_second_run_has_nothing_to_do(given: Given) -> None:
    """And says so."""
    given.run(*given.options())

    result = given.run(*given.options())

    assert "0 of 30 users planned" in result.stdout


@pytest.mark.parametrize("absent", ["--planner-file", "--embeddings"])
def test_all_users_needs_both_files(given: Given, absent: str) -> None:
    """The message names them."""
    words = list(given.options())
    place = words.index(absent)
    del words[place : place + 2]

    error = given.run(*words).exception

    assert isinstance(error, ConfigError)
    assert "--planner-file and --embeddings" in str(error)


def test_a_planner_of_another_model_is_refused(given: Given) -> None:
    """Before anything is written."""
    other = replace(given.planner, arrays=dict(given.planner.arrays), model_digest=bytes(32))
    (given.folder / "planner.safetensors").write_bytes(other.to_bytes())

    error = given.run(*given.options()).exception

    assert isinstance(error, IncompatibleArtifactError)
    assert not (given.folder / "out").exists()


def test_an_embedding_is_an_array(given: Given) -> None:
    """Nothing is ever unpickled."""
    np.save(given.folder / "z.npy", np.array([{"a": 1}], object), allow_pickle=True)

    error = given.run(
        *("--planner", "personal", "--planner-file", given.folder / "planner.safetensors"),
        *("--embedding", given.folder / "z.npy"),
    ).exception

    assert isinstance(error, ConfigError)
    assert "expected an array as .npy" in str(error)


def test_ray_is_an_extra(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the command that brings it is named."""
    monkeypatch.setattr(engines, "find_spec", lambda name: None)

    error = given.run(*given.options(), "--engine", "ray").exception

    assert isinstance(error, MissingExtraError)
    assert "pip install" in str(error)
