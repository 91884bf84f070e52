# SPDX-License-Identifier: Apache-2.0
"""The commands train, bundle build and plan make, as a user types them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.commands import run_command, run_command_json

from pocketrec.cli import ExitCode
from pocketrec_cloud.bundling import BUNDLE_FOLDER, CASES, FLOAT_TWIN, SENSITIVITY
from pocketrec_quantization.budget import budget_bytes, coded_bytes
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.plan import Plan, check_applies, decode_plan

if TYPE_CHECKING:
    from tests.cloud.conftest import Built

    from pocketrec_cloud.data.split import LeaveOneOut

pytestmark = pytest.mark.usefixtures("one_thread")

COMMANDS = {
    "train": "pocketrec_cloud.cli:train",
    "bundle.build": "pocketrec_cloud.cli:bundle_build",
    "plan.make": "pocketrec_cloud.cli:plan_make",
}
run = partial(run_command, COMMANDS)
run_json = partial(run_command_json, COMMANDS)


@pytest.fixture(scope="module")
def data(tiny_file: Path) -> Path:
    """The tiny interactions as a file."""
    return tiny_file


@pytest.fixture(scope="module")
def training(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What two epochs of the command report, and the folder they leave."""
    out = tmp_path_factory.mktemp("command") / "training"
    limits = ("--max-epochs", 2, "--threads", 1, "--seed", 5)
    return run_json("train", "--data", data, "--out", out, *limits), out


class TestTrain:
    def test_the_record_tells_what_was_done(
        self, training: tuple[dict[str, Any], Path], tiny_split: LeaveOneOut
    ) -> None:
        """Data, course, versions, and quality with the control beside it."""
        record, _ = training

        assert (record["preset"], record["seed"], record["epochs"]) == ("demo", 5, 2)
        assert record["n_events"] == tiny_split.dataset.n_events
        assert (record["n_users"], record["n_items"]) == (300, 60)
        for protocol in ("test", "test_1_to_99"):
            assert record[protocol].keys() == {"sasrec", "popularity"}
            assert 0 <= record[protocol]["sasrec"]["ndcg@10"] <= 1

    def test_the_folder_holds_model_and_record(self, training: tuple[dict[str, Any], Path]) -> None:
        """Two checkpoints, and the record for later."""
        record, out = training

        names = sorted(path.name for path in out.iterdir())
        assert names == ["best.safetensors", "last.safetensors", "training.json"]
        assert json.loads((out / "training.json").read_text()) == record

    def test_resuming_a_finished_run_reports_it_again(
        self, training: tuple[dict[str, Any], Path], data: Path
    ) -> None:
        """Nothing is trained twice."""
        record, out = training

        again = run_json(
            *("train", "--data", data, "--out", out, "--resume"),
            *("--max-epochs", 2, "--threads", 1, "--seed", 5),
        )

        assert again == record

    def test_people_see_a_table(self, training: tuple[dict[str, Any], Path], data: Path) -> None:
        """Model and control, under both protocols."""
        shown = run(
            *("train", "--data", data, "--out", training[1], "--resume"),
            *("--max-epochs", 2, "--threads", 1, "--seed", 5),
        ).stdout

        for text in ("sasrec", "popularity", "all items", "1 of 100", "NDCG@10"):
            assert text in shown

    def test_a_used_folder_is_a_usage_error(
        self, training: tuple[dict[str, Any], Path], data: Path
    ) -> None:
        """Only --resume goes on with what is there."""
        result = run("train", "--data", data, "--out", training[1])

        assert result.exit_code == ExitCode.USAGE
        assert "resume it, or name another folder" in result.stderr

    def test_unreadable_data_is_a_data_error(self, tmp_path: Path) -> None:
        """The error names file and reason."""
        path = tmp_path / "interactions.xyz"
        path.write_text("u a b c\n")

        result = run("train", "--data", path, "--out", tmp_path / "out")

        assert result.exit_code == ExitCode.DATA
        assert "interactions.xyz" in result.stderr

    def test_columns_need_a_format_that_has_them(self, data: Path, tmp_path: Path) -> None:
        """A name of a column for a file without names is a mistake."""
        words = ("train", "--data", data, "--out", tmp_path, "--user-column", "who")

        assert run(*words).exit_code == ExitCode.USAGE

    def test_named_columns_are_read(self, tmp_path: Path) -> None:
        """A CSV file with names of its own trains as well."""
        path = tmp_path / "events.csv"
        rows = [f"u{u},i{(u + t) % 12},{t}" for u in range(12) for t in range(5)]
        path.write_text("\n".join(["who,what,when", *rows]) + "\n")

        record = run_json(
            *("train", "--data", path, "--out", tmp_path / "out"),
            *("--user-column", "who", "--item-column", "what", "--time-column", "when"),
            *("--max-epochs", 1, "--threads", 1),
        )

        assert (record["n_users"], record["n_items"], record["n_events"]) == (12, 12, 60)


class TestBundleBuild:
    @pytest.mark.slow
    def test_a_trained_model_becomes_a_bundle(
        self, training: tuple[dict[str, Any], Path], data: Path, tmp_path: Path
    ) -> None:
        """The bundle verifies, its company lies beside it, and the command says its size."""
        result = run_json(
            *("bundle", "build", "--data", data, "--out", tmp_path, "--version", 7),
            *("--checkpoint", training[1] / "best.safetensors", "--average-bits", 4),
        )

        bundle = BundleFolder.open(tmp_path / BUNDLE_FOLDER)
        bundle.verify()
        assert result["digest"] == bundle.digest.hex()
        assert result["bundle_bytes"] == sum(part.length_bytes for part in bundle.manifest.parts)
        assert result["parts"] == {p.name: p.length_bytes for p in bundle.manifest.parts}
        assert bundle.manifest.version == 7
        assert bundle.read_default_plan().budget_bytes == budget_bytes(bundle.manifest.layers, 4)
        for name in (SENSITIVITY, CASES, FLOAT_TWIN):
            assert (tmp_path / name).exists()

    def test_another_catalogue_is_an_artifact_error(
        self, training: tuple[dict[str, Any], Path], tmp_path: Path
    ) -> None:
        """A checkpoint only fits the data it was trained on."""
        other = tmp_path / "other.txt"
        other.write_text("u a b c d\n")

        result = run(
            *("bundle", "build", "--data", other, "--out", tmp_path / "out"),
            *("--checkpoint", training[1] / "best.safetensors"),
        )

        assert result.exit_code == ExitCode.ARTIFACT
        assert "name the file it was trained on" in result.stderr

    def test_the_last_state_is_no_model(
        self, training: tuple[dict[str, Any], Path], data: Path, tmp_path: Path
    ) -> None:
        """last.safetensors is for resuming, and refused here."""
        result = run(
            *("bundle", "build", "--data", data, "--out", tmp_path),
            *("--checkpoint", training[1] / "last.safetensors"),
        )

        assert result.exit_code == ExitCode.ARTIFACT
        assert "kind in ['caser', 'sasrec']" in result.stderr


class TestPlanMake:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        """Where the plan goes."""
        return tmp_path / "made.plan"

    def read(self, out: Path, build: Built) -> Plan:
        """Read a plan, and check that it is for the bundle."""
        plan = decode_plan(out.read_bytes())
        check_applies(plan, build.bundle.manifest.layers, build.bundle.model_digest)
        return plan

    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_uniform_plans_need_no_budget(self, tiny_build: Built, out: Path, bits: int) -> None:
        """They take what they need."""
        result = run_json(
            *("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out),
            *("--planner", f"uniform-{bits}"),
        )

        plan = self.read(out, tiny_build)
        assert set(plan.widths.tolist()) == {bits}
        assert result["coded_bytes"] == result["budget_bytes"] == plan.budget_bytes

    def test_the_global_plan_is_the_default(self, tiny_build: Built, out: Path) -> None:
        """Without options it is the plan that the bundle carries, found by the same losses."""
        run_json("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out)

        plan, default = self.read(out, tiny_build), tiny_build.bundle.read_default_plan()
        assert plan.planner == "global"
        assert (plan.codes == default.codes).all()
        assert (plan.version, plan.subject, plan.key_id) == (0, "", b"")

    @pytest.mark.parametrize("planner", ["global", "random"])
    @pytest.mark.parametrize("bits", [2.5, 5])
    def test_average_bits_are_kept(
        self, tiny_build: Built, out: Path, planner: str, bits: float
    ) -> None:
        """No plan costs more than its average allows, or much less."""
        result = run_json(
            *("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out),
            *("--planner", planner, "--average-bits", bits),
        )

        plan = self.read(out, tiny_build)
        budget = budget_bytes(plan.layers, bits)
        assert 0.98 * budget < coded_bytes(plan.layers, plan.widths) <= budget
        assert result["payload_bytes"] == -(-plan.codes.size // 4)

    def test_a_budget_in_bytes_is_kept(self, tiny_build: Built, out: Path) -> None:
        """Whoever counts bytes says so."""
        limit = budget_bytes(tiny_build.bundle.manifest.layers, 3.7) + 1

        run_json(
            *("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out),
            *("--budget-bytes", limit),
        )

        assert self.read(out, tiny_build).budget_bytes == limit

    def test_seeds_make_different_random_plans(self, tiny_build: Built, tmp_path: Path) -> None:
        """The same seed makes the same plan."""
        codes = []
        for number, seed in enumerate((1, 1, 2)):
            out = tmp_path / f"{number}.plan"
            run_json(
                *("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out),
                *("--planner", "random", "--seed", seed),
            )
            codes.append(self.read(out, tiny_build).codes.tolist())

        assert codes[0] == codes[1] != codes[2]

    def test_people_see_what_a_plan_costs(self, tiny_build: Built, out: Path) -> None:
        """A table with bits and bytes."""
        shown = run("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out).stdout

        for text in ("Plan by 'global'", "effective_bits", "payload_bytes"):
            assert text in shown

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--average-bits", 3, "--budget-bytes", 9000], "leave one out"),
            (["--planner", "uniform-3"], "'uniform-3'"),
            (["--planner", "best"], "global, personal, random, uniform-2, uniform-4, uniform-8"),
            (["--average-bits", 1.5], "2 bits everywhere"),
            (["--average-bits", 9], "expected 0..8"),
            (["--average-bits", "nan"], "expected 0..8"),
            (["--planner", "uniform-8", "--average-bits", 4], "uniform-8 needs"),
        ],
    )
    def test_what_cannot_be_made_is_a_usage_error(
        self, tiny_build: Built, out: Path, options: list[object], message: str
    ) -> None:
        """The message says what would work, and no plan is written."""
        result = run("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out, *options)

        assert result.exit_code == ExitCode.USAGE
        assert message in result.stderr
        assert not out.exists()

    def test_a_missing_sensitivity_is_asked_for(
        self, tiny_build: Built, tmp_path: Path, out: Path
    ) -> None:
        """A bundle without its company needs the file by name; then it works."""
        alone = tmp_path / "alone" / "bundle"
        alone.parent.mkdir()
        alone.symlink_to(tiny_build.bundle.path)
        words = ("plan", "make", "--bundle", alone, "--out", out)

        result = run(*words)

        assert result.exit_code == ExitCode.USAGE
        assert "--sensitivity" in result.stderr
        run_json(*words, "--sensitivity", tiny_build.folder / SENSITIVITY)
        assert out.exists()

    def test_a_file_of_another_kind_is_an_artifact_error(
        self, tiny_build: Built, out: Path
    ) -> None:
        """The float twin holds no sensitivity."""
        result = run(
            *("plan", "make", "--bundle", tiny_build.bundle.path, "--out", out),
            *("--sensitivity", tiny_build.folder / FLOAT_TWIN),
        )

        assert result.exit_code == ExitCode.ARTIFACT

    def test_a_folder_without_a_bundle_is_a_store_error(self, tmp_path: Path, out: Path) -> None:
        """There is no manifest to read."""
        result = run("plan", "make", "--bundle", tmp_path, "--out", out)

        assert result.exit_code == ExitCode.STORE
