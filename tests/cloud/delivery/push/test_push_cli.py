# SPDX-License-Identifier: Apache-2.0
"""The commands ``push``, ``push list`` and ``push cancel``, against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from tests.cloud.delivery.push.conftest import TOKEN, Party

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.push.cli import push
from pocketrec_quantization.bundle import DEFAULT_PLAN
from pocketrec_quantization.cli import plan_show
from pocketrec_quantization.plan import decode_plan
from pocketrec_quantization.plan_json import plan_to_json

if TYPE_CHECKING:
    from pocketrec_quantization.bundle import BundleFolder


@pytest.fixture
def run(party: Party, tmp_path: Path) -> Callable[..., Result]:
    """Runs ``push`` with words, as the operator."""
    token = tmp_path / "token"
    token.write_text(TOKEN)

    def run(*words: str) -> Result:
        connection = ["--server", party.listening.admin_address, "--token-file", str(token)]
        return CliRunner().invoke(push, [*words, *connection])

    return run


class TestPush:
    def test_push_list_and_cancel(self, run: Callable[..., Result], party: Party) -> None:
        """What is pushed is listed until it is cancelled."""
        next(party.watch(party.device(), "ann"))
        pushed = run("--user", "ann", "--average-bits", "2.5", "--json", "-")
        listed = run("list", "--json", "-")
        cancelled = run("cancel", "1")
        after = run("list", "--json", "-")

        assert json.loads(pushed.output) == {"sequence": 1, "n_watching": 1}
        (row,) = json.loads(listed.output)["pushes"]
        assert (row["audience_value"], row["average_bits"]) == ("ann", 2.5)
        assert cancelled.exit_code == 0
        assert json.loads(after.output) == {"pushes": []}

    @pytest.mark.parametrize("form", ["container", "twin", "plan show"])
    def test_plan_from_a_file_is_pushed_code_by_code(
        self,
        run: Callable[..., Result],
        party: Party,
        bundle: BundleFolder,
        tmp_path: Path,
        form: str,
    ) -> None:
        """A container, its JSON twin, and what `plan show --json` writes come to the same plan."""
        data, file = bundle.read(DEFAULT_PLAN), tmp_path / "plan"
        plan = decode_plan(data)
        file.write_bytes(data)
        if form == "twin":
            file.write_text(json.dumps(plan_to_json(plan)))
        elif form == "plan show":
            shown = CliRunner().invoke(plan_show, [str(file), "--json", "-"])
            file.write_text(shown.output)

        result = run("--all", "--plan", str(file), "--model", party.model_digest.hex())

        assert result.exit_code == 0, result.output
        message = next(party.watch(party.device(), "ann"))
        assert decode_plan(message.plan).codes.tolist() == plan.codes.tolist()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--average-bits", "2.5"], "--user, --cohort and --all"),
            (["--all", "--user", "ann", "--average-bits", "2.5"], "--user, --cohort and --all"),
            (["--all", "--average-bits", "2.5", "--model", "xyz"], "--model"),
        ],
    )
    def test_words_that_make_no_sense_are_refused(
        self, run: Callable[..., Result], words: list[str], message: str
    ) -> None:
        """An audience is said exactly once; digests are hex."""
        result = run(*words)

        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)
