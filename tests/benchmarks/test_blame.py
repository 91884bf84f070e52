# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

from benchmarks.blame import main
from click.testing import CliRunner
from tests.device.debugging.conftest import make_patient


class TestBlame:
    def test_it_measures_and_draws_the_same_again(self, tmp_path: Path) -> None:
        """Every layer is planted twice; a file drawn again gives the same page."""
        patient = make_patient(tmp_path / "build" / "bundle", "caser")
        (tmp_path / "build" / "cases.safetensors").write_bytes(patient.cases.to_bytes())
        found, first, second = (tmp_path / name for name in ("a.json", "a.md", "b.md"))
        words = ["--build", f"tiny={tmp_path / 'build'}", "--sample", "30"]

        runner = CliRunner(env={"COLUMNS": "120"})
        done = runner.invoke(
            main, [*words, "--json", str(found), "--report", str(first)], catch_exceptions=False
        )
        again = runner.invoke(main, ["--from", str(found), "--report", str(second)])

        assert (done.exit_code, again.exit_code) == (0, 0)
        model = json.loads(found.read_text())["models"]["tiny"]
        layers = [layer.name for layer in patient.model.frozen.layers]
        assert [each["planted"] for each in model["planted"]] == layers * 2
        assert [each["others"] for each in model["planted"]] == [8] * 5 + [4] * 5
        assert first.read_text() == second.read_text()
        assert "| tiny | 8 bits | 5 of 5 | 5 of 5 | 5 of 5 | 5 of 5 |" in first.read_text()

    def test_without_a_build_it_says_what_it_wants(self) -> None:
        """A name and a folder."""
        done = CliRunner().invoke(main, ["--build", "work/demo/build"])

        assert done.exit_code == 2
        assert "NAME=FOLDER" in done.output
