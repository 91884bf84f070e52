# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.commands import run_command, run_command_json
from tests.device.debugging.conftest import Patient

from pocketrec.cli import ExitCode
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.plan import encode_plan

COMMANDS = {
    f"debug.{name}": f"pocketrec_device.debugging.cli:{name}"
    for name in ("diverge", "layers", "profile")
}


@pytest.fixture
def sasrec(patients: dict[str, Patient]) -> Patient:
    """One patient will do."""
    return patients["sasrec"]


@pytest.fixture
def cases(tmp_path: Path, sasrec: Patient) -> Path:
    """Its held-out users."""
    (tmp_path / "cases").write_bytes(sasrec.cases.to_bytes())
    return tmp_path / "cases"


@pytest.fixture
def plan(tmp_path: Path, sasrec: Patient) -> Path:
    """A plan of all widths."""
    (tmp_path / "mixed.plan").write_bytes(encode_plan(sasrec.model.mixed_plan(), None))
    return tmp_path / "mixed.plan"


class TestLayers:
    def test_a_person_sees_who_is_to_blame(
        self, sasrec: Patient, cases: Path, plan: Path, tmp_path: Path
    ) -> None:
        """Both tables, the verdict, and the same as JSON."""
        out = tmp_path / "blame.json"
        words = ("--bundle", sasrec.bundle.path, "--plan", plan, "--cases", cases)

        done = run_command(
            COMMANDS, "debug", "layers", *words, "--sample", 20, "--measure", "--json", out
        )

        assert done.exit_code == ExitCode.OK, done.output
        found = json.loads(out.read_text())
        first = found["layers"][0]
        assert found["schema"] == "pocketrec.blame/1"
        assert f"{first['name']} is to blame for" in done.stdout
        for text in ("SQNR dB", "What if this layer had 8 bits", "NDCG@10, measured"):
            assert text in done.stdout
        assert first["measured"]["ndcg"].keys() == {"mean", "low", "high"}

    def test_the_default_plan_of_8_bits_is_fine(self, sasrec: Patient, cases: Path) -> None:
        """Nobody is to blame; outputs are compared with the float twin's."""
        weights = sasrec.model.frozen.adapt(sasrec.widths(8))
        embeddings = sasrec.bundle.read_items().embed(np.arange(61))
        twin = cases.with_name("float")
        twin.write_bytes(FloatTwin(weights=weights, item_embeddings=embeddings).to_bytes())
        words = ("--bundle", sasrec.bundle.path, "--cases", cases, "--float-twin", twin)

        done = run_command(COMMANDS, "debug", "layers", *words, "--sample", 10)

        assert done.exit_code == ExitCode.OK, done.output
        assert "No layer would do better with 8 bits." in done.stdout
        assert "outputs against float weights" in done.stdout

    def test_a_plan_for_another_model_is_refused(
        self, sasrec: Patient, cases: Path, tmp_path: Path
    ) -> None:
        """Before anything is computed."""
        other = replace(sasrec.model.mixed_plan(), model_id=bytes(16))
        (tmp_path / "other.plan").write_bytes(encode_plan(other, None))
        words = ("--bundle", sasrec.bundle.path, "--cases", cases)

        done = run_command(COMMANDS, "debug", "layers", *words, "--plan", tmp_path / "other.plan")

        assert done.exit_code == ExitCode.ARTIFACT


@pytest.mark.parametrize("command", ["layers", "diverge", "profile"])
class TestCases:
    def test_cases_of_another_catalogue_are_refused(
        self, command: str, sasrec: Patient, cases: Path
    ) -> None:
        """Their indices would mean other items; the file is named."""
        cases.write_bytes(replace(sasrec.cases, n_items=61).to_bytes())
        words = ("--bundle", sasrec.bundle.path, "--cases", cases)

        done = run_command(COMMANDS, "debug", command, *words)

        assert done.exit_code == ExitCode.ARTIFACT
        assert f"{cases}: expected cases over the bundle's 60 items" in done.stderr

    def test_a_file_of_another_kind_is_refused(
        self, command: str, sasrec: Patient, cases: Path
    ) -> None:
        """Whatever it is."""
        cases.write_text("{}")
        words = ("--bundle", sasrec.bundle.path, "--cases", cases)

        assert run_command(COMMANDS, "debug", command, *words).exit_code == ExitCode.ARTIFACT


class TestDiverge:
    def test_agreement_ends_with_0(self, sasrec: Patient) -> None:
        """On the histories of the bundle's test vectors."""
        found = run_command_json(COMMANDS, "debug", "diverge", "--bundle", sasrec.bundle.path)

        assert found["first"] is None
        assert found["n_histories"] == 3

    def test_a_difference_ends_with_1_and_is_named(self, sasrec: Patient, cases: Path) -> None:
        """The line that is first to differ is marked."""
        words = ("--bundle", sasrec.bundle.path, "--cases", cases, "--histories", 2)

        done = run_command(COMMANDS, "debug", "diverge", *words, "--right", "onnxruntime:int8")

        assert done.exit_code == ExitCode.CHECK_FAILED
        assert "First to differ: blocks.0.q" in done.stdout
        assert "← first" in done.stdout

    def test_an_unknown_backend_is_a_usage_error(self, sasrec: Patient) -> None:
        """As everywhere."""
        words = ("--bundle", sasrec.bundle.path, "--left", "tensorflow")

        assert run_command(COMMANDS, "debug", "diverge", *words).exit_code == ExitCode.USAGE


class TestProfile:
    def test_operators_are_listed_by_time(self, sasrec: Patient, cases: Path) -> None:
        """And what tracing costs is said."""
        words = ("--bundle", sasrec.bundle.path, "--cases", cases, "--warmup", 1, "--runs", 3)

        done = run_command(COMMANDS, "debug", "profile", *words)

        assert done.exit_code == ExitCode.OK, done.output
        assert "ONNX Runtime's profiler, 3 calls" in done.stdout
        assert "Tracing costs time of its own" in done.stdout

    def test_its_json_is_what_reports_take(self, sasrec: Patient) -> None:
        """By its schema, with all functions."""
        words = ("--bundle", sasrec.bundle.path, "--warmup", 0, "--runs", 2)

        found = run_command_json(COMMANDS, "debug", "profile", *words)

        assert found["schema"] == "pocketrec.profile/1"
        assert {each["function"] for each in found["functions"]} == {"history", "step"}
