# SPDX-License-Identifier: Apache-2.0
"""Plans for all users: the same from every engine, and never made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.quantization.hypernetwork_samples import DIGEST, LAYERS, random_planner, random_users

from pocketrec.errors import (
    ConfigError,
    DataError,
    InfeasibleBudgetError,
    MalformedArtifactError,
    MissingExtraError,
)
from pocketrec.signing import SigningKey
from pocketrec_cloud.planning import engines
from pocketrec_cloud.planning.engines import Engine, LocalEngine, RayEngine, make_engine
from pocketrec_cloud.planning.fleet import FleetJob, plan_fleet
from pocketrec_cloud.planning.plan_shards import PlanShard
from pocketrec_cloud.planning.user_embeddings import write_user_embeddings
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.plan import Plan, decode_plan, encode_plan, model_id, split_signature

USERS = random_users(50)


class Counting:
    """The local engine; remembers what it was asked for."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def run(
        self, task: Callable[[Any, int], Any], job: Any, numbers: Sequence[int]
    ) -> Iterator[Any]:
        """Work on all, one by one."""
        for number in numbers:
            self.numbers.append(number)
            yield task(job, number)


class Breaking(Counting):
    """Is interrupted after the first shard."""

    def run(
        self, task: Callable[[Any, int], Any], job: Any, numbers: Sequence[int]
    ) -> Iterator[Any]:
        """Work on one."""
        yield from super().run(task, job, numbers[:1])
        raise KeyboardInterrupt


def run(job: FleetJob, engine: Engine | None = None) -> dict[str, Any]:
    """Plan, without watching."""
    return plan_fleet(job, engine or LocalEngine(1), advance=lambda *_: None)


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a result by its path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class TestPlans:
    """What lies in the folder at the end."""

    def test_every_user_has_the_plan_of_the_planner(self, job: FleetJob) -> None:
        """In the order of the file, shard after shard."""
        run(job)

        shards = [PlanShard(job.shard(number)) for number in range(3)]
        subjects = [subject for shard in shards for subject in shard.subjects]
        codes = np.concatenate([shard.codes() for shard in shards])
        assert subjects == [f"user-{number}" for number in range(50)]
        np.testing.assert_array_equal(codes, random_planner().plan(USERS, job.budget_bytes))

    def test_the_manifest_names_every_shard(self, job: FleetJob) -> None:
        """With its digest, and what it was made of."""
        result = run(job)

        manifest = json.loads((job.out / "manifest.json").read_bytes())
        assert [shard["n_users"] for shard in manifest["shards"]] == [20, 20, 10]
        for shard in manifest["shards"]:
            content = (job.out / shard["path"]).read_bytes()
            assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        planner_sha256 = hashlib.sha256(job.planner.read_bytes()).hexdigest()
        assert manifest["planner_sha256"] == planner_sha256
        assert manifest["model_digest"] == DIGEST.hex()
        assert result == {**manifest, "n_planned": 50}

    def test_a_row_becomes_a_plan_that_can_be_signed(self, job: FleetJob) -> None:
        """By whoever delivers it."""
        run(job)
        key = SigningKey.generate()

        plan = PlanShard(job.shard(2)).plan(4, issued_at_s=100, expires_at_s=200)

        assert plan == Plan(
            model_id=model_id(DIGEST),
            levels=DEFAULT_LEVELS,
            layers=LAYERS,
            codes=random_planner().plan(USERS[44:45], job.budget_bytes)[0],
            budget_bytes=job.budget_bytes,
            subject="user-44",
            planner="personal",
            version=0,
            issued_at_s=100,
            expires_at_s=200,
            key_id=b"",
        )
        signed = replace(plan, version=3, key_id=key.public.key_id)
        container = encode_plan(signed, key.sign)
        assert decode_plan(container) == signed
        key.public.verify(*split_signature(container))

    def test_progress_ends_with_everybody(self, job: FleetJob) -> None:
        """Shard by shard."""
        seen: list[tuple[int, int]] = []

        plan_fleet(job, LocalEngine(1), advance=lambda done, total: seen.append((done, total)))

        assert seen == [(0, 50), (20, 50), (40, 50), (50, 50)]


class TestResuming:
    """A second run into the same folder."""

    def test_finished_shards_are_kept(self, job: FleetJob) -> None:
        """The result is that of one whole run."""
        run(replace(job, out=job.out / "whole"))
        with pytest.raises(KeyboardInterrupt):
            run(job, Breaking())
        assert not (job.out / "manifest.json").exists()

        counting = Counting()
        result = run(job, counting)

        assert counting.numbers == [1, 2]
        assert result["n_planned"] == 30
        whole = files(job.out / "whole")
        assert {path: content for path, content in files(job.out).items() if path in whole} == whole

    def test_a_finished_job_is_not_done_again(self, job: FleetJob) -> None:
        """There is nothing to do."""
        run(job)
        counting = Counting()

        assert run(job, counting)["n_planned"] == 0
        assert counting.numbers == []

    def test_changed_inputs_are_refused(self, job: FleetJob) -> None:
        """Each is named."""
        run(job)
        before = files(job.out)
        other = job.out.parent / "other.safetensors"
        other.write_bytes(random_planner(seed=5).to_bytes())

        for changed, name in [
            (replace(job, budget_bytes=job.budget_bytes + 1), "budget_bytes"),
            (replace(job, shard_users=10), "shard_users"),
            (replace(job, planner=other), "planner_sha256"),
        ]:
            with pytest.raises(ConfigError, match=name):
                run(changed)
        assert files(job.out) == before

    def test_a_job_that_cannot_be_read_is_refused(self, job: FleetJob) -> None:
        """Rather than taken for one's own."""
        run(job)
        (job.out / "job.json").write_bytes(b"[1")

        with pytest.raises(ConfigError, match="expected the JSON of a job"):
            run(job)


class TestRefusals:
    """What ends a run, and when."""

    def test_an_impossible_budget_writes_nothing(self, job: FleetJob) -> None:
        """It is found first."""
        with pytest.raises(InfeasibleBudgetError):
            run(replace(job, budget_bytes=10))

        assert not job.out.exists()

    @pytest.mark.parametrize("users", [np.full((3, 6), np.nan), np.zeros((3, 5))])
    def test_embeddings_that_do_not_fit_name_their_file(
        self, job: FleetJob, users: np.ndarray
    ) -> None:
        """And the users among whom they are."""
        write_user_embeddings(job.embeddings, ["a", "b", "c"], users.astype(np.float32))

        with pytest.raises(DataError, match="users 1 to 3: user_embedding") as error:
            run(job)

        assert error.value.path == str(job.embeddings)

    def test_a_planner_is_a_planner(self, job: FleetJob) -> None:
        """A damaged one is refused."""
        job.planner.write_bytes(b"")

        with pytest.raises(MalformedArtifactError):
            run(job)

    def test_what_is_no_shard_is_refused(self, job: FleetJob) -> None:
        """A file of embeddings is none."""
        with pytest.raises(DataError, match="expected a shard of plans"):
            PlanShard(job.embeddings)


class TestEngines:
    """Who does the work is not to be seen in the result."""

    def test_processes_give_the_same_bytes(self, job: FleetJob) -> None:
        """As one process does."""
        run(job)

        run(replace(job, out=job.out.parent / "two"), LocalEngine(2))

        assert files(job.out.parent / "two") == files(job.out)

    def test_ray_gives_the_same_bytes(self, job: FleetJob) -> None:
        """As one process does."""
        pytest.importorskip("ray", reason="needs the extra 'ray'")
        run(job)

        run(replace(job, out=job.out.parent / "ray"), RayEngine(2))

        assert files(job.out.parent / "ray") == files(job.out)

    def test_without_ray_the_command_that_helps_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before anything is read or written."""
        monkeypatch.setattr(engines, "find_spec", lambda name: None)

        with pytest.raises(MissingExtraError, match=r"pip install 'pocketrec\[cloud,ray\]'"):
            make_engine("ray", 2)

    def test_engines_have_names(self) -> None:
        """And no other."""
        assert isinstance(make_engine("local", 2), LocalEngine)
        with pytest.raises(ConfigError, match="engine: expected one of local, ray"):
            make_engine("spark", 2)
        with pytest.raises(ConfigError, match="workers"):
            make_engine("local", 0)

    def test_an_error_of_a_process_is_the_tasks_own(self, job: FleetJob) -> None:
        """With its type and text."""
        users = np.full((50, 6), np.inf, np.float32)
        write_user_embeddings(job.embeddings, [f"u{n}" for n in range(50)], users)

        with pytest.raises(DataError, match="user_embedding"):
            run(job, LocalEngine(2))
