# SPDX-License-Identifier: Apache-2.0
"""The commands, against a real admin service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cloud.delivery.admin.serving import serve_admins
from tests.cloud.delivery.conftest import Deployment
from tests.cloud.delivery.rollouts.fleet import TOKEN, admin_record
from tests.cloud.delivery.rollouts.records import make_rollout

from pocketrec.errors import ConfigError, RejectedError
from pocketrec_cloud.delivery.records import ModelRecord, Outcome, RolloutState
from pocketrec_cloud.delivery.rollouts import cli
from pocketrec_cloud.delivery.rollouts.judge import judge_all
from pocketrec_cloud.delivery.serving.composition import build_parts
from pocketrec_cloud.delivery.serving.server import ServerConfig

Run = Callable[..., Result]


@pytest.fixture
def run(deployment: Deployment, tmp_path: Path) -> Iterator[Run]:
    """Runs a command as an operator."""
    deployment.database.put_admin(admin_record())
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    config = ServerConfig(store=deployment.store, keys=deployment.keys)
    parts = build_parts(config, deployment.clock, database=deployment.database)
    with serve_admins(parts.admin) as target:
        options = ("--server", target, "--token-file", str(token_file))

        def run(command: Any, *words: str) -> Result:
            return CliRunner().invoke(command, [*words, *options])

        yield run
    parts.orders.close()


@pytest.fixture
def started(run: Run, candidate: ModelRecord) -> dict[str, Any]:
    """A rollout of the candidate, as the command told of it."""
    digest = candidate.bundle_digest.hex()
    result = run(cli.rollout_start, "demo", "--bundle", digest, "--json", "-")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


class TestStart:
    def test_bundle(self, started: dict[str, Any], candidate: ModelRecord) -> None:
        """A rollout is started with the defaults that help names."""
        assert started["state"] == "running"
        assert started["bundle_digest"] == candidate.bundle_digest.hex()
        assert [stage["percent"] for stage in started["stages"]] == [1, 10, 50, 100]
        assert (started["success_threshold"], started["error_threshold"]) == (0.95, 0.05)
        assert (started["min_reports"], started["min_stage_s"]) == (20, 3600)
        assert started["admin"] == "olga"

    def test_plans(self, run: Run, candidate: ModelRecord) -> None:
        """Plan settings are rolled out by name or bits, or as they are usually."""
        result = run(cli.rollout_start, "demo", "--average-bits", "2.5", "--stages", "5,100")
        assert result.exit_code == 0
        assert "brings plans (2.5 bits) to every device" in result.stdout

    @pytest.mark.parametrize(
        "words",
        [
            (),
            ("--bundle", "00" * 32, "--planner", "global"),
            ("--bundle", "no hex"),
            ("--bundle", "00"),
            ("--planner", "global", "--stages", "1,x"),
        ],
    )
    def test_impossible(self, run: Run, words: tuple[str, ...]) -> None:
        """What cannot be meant is refused before anybody is asked."""
        result = run(cli.rollout_start, "demo", *words)

        assert isinstance(result.exception, ConfigError)

    def test_refused(self, run: Run, started: dict[str, Any]) -> None:
        """The server's refusal is the command's error."""
        result = run(cli.rollout_start, "demo", "--planner", "global")

        assert isinstance(result.exception, RejectedError)
        assert started["rollout_id"] in str(result.exception)


class TestChanges:
    def test_pause_resume_abort(self, run: Run, started: dict[str, Any]) -> None:
        """A rollout is paused, goes on, and is taken back, with a reason for those who look."""
        rollout_id = started["rollout_id"]

        assert "paused in stage 1 of 4" in run(cli.rollout_pause, rollout_id).stdout
        assert "running in stage 1 of 4" in run(cli.rollout_resume, rollout_id).stdout
        aborted = run(cli.rollout_abort, rollout_id, "--reason", "bad reviews")
        assert "aborted in stage 1 of 4, by olga" in aborted.stdout
        assert "why: bad reviews" in aborted.stdout
        assert isinstance(run(cli.rollout_pause, rollout_id).exception, RejectedError)


class TestStatus:
    def test_table(self, run: Run, started: dict[str, Any], deployment: Deployment) -> None:
        """What devices say is shown by stage."""
        for number in range(20):
            outcome = Outcome.FAILED if number == 0 else Outcome.INSTALLED
            deployment.database.put_outcome(
                started["rollout_id"], f"d-{number}", stage=0, outcome=outcome
            )
        result = run(cli.rollout_status, started["rollout_id"])
        row = next(line for line in result.stdout.splitlines() if "1 %" in line)
        assert row.split()[-4:] == ["20", "19", "1", "█" * 9 + "░"]
        deployment.clock.now_s += 3600
        judge_all(deployment.database, deployment.clock)

        result = run(cli.rollout_status, started["rollout_id"], "--json", "-")
        assert json.loads(result.stdout)["state"] == "stopped"  # 5 % failed

    def test_watch(self, run: Run, deployment: Deployment, candidate: ModelRecord) -> None:
        """Watching ends with the rollout, and leaves its last state on stdout."""
        finished = make_rollout(state=RolloutState.FINISHED, min_reports=1)
        deployment.database.add_rollout(replace(finished, bundle_digest=candidate.bundle_digest))

        result = run(cli.rollout_status, "r-1", "--watch", "--every-s", "0.01")
        assert result.exit_code == 0
        assert "r-1  demo  finished" in result.stdout


class TestList:
    def test_table(self, run: Run, started: dict[str, Any]) -> None:
        """Rollouts are listed, or there are none."""
        assert started["rollout_id"] in run(cli.rollout_list).stdout
        assert "no rollouts" in run(cli.rollout_list, "--model", "other").stdout
        result = run(cli.rollout_list, "--json", "-")
        assert [r["rollout_id"] for r in json.loads(result.stdout)["rollouts"]] == [
            started["rollout_id"]
        ]
