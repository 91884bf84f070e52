# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of the runtime concludes and shows, and one run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.runtime_costs import main
from benchmarks.runtime_costs_page import page, sheets
from benchmarks.runtime_costs_run import CONFIGS, CostSettings, medians
from benchmarks.runtime_costs_targets import resident_bits, targets
from benchmarks.runtime_costs_worker import run_task
from benchmarks.seeded_bundle import shuffled_plan, write_seeded_bundle
from benchmarks.shapes import Shape
from click.testing import CliRunner

from pocketrec.errors import ConfigError
from pocketrec_quantization.budget import coded_bytes
from pocketrec_quantization.layers import split_by_layer


def weights(config: str, rss_bytes: int) -> dict[str, Any]:
    """What a process with packed weights reports."""
    return {
        "task": "weights",
        "config": config,
        "compute": "packed",
        "swap": "auto",
        "rss_bytes": rss_bytes,
        "trimmed_bytes": rss_bytes,
        "peak_bytes": rss_bytes,
        "kernels": ["int2/int4/int8 (MatMulNBits)"],
    }


RECORDS: list[dict[str, Any]] = [
    {"task": "build", "config": "small", "effective_bits": 3.0, "n_weights": 1000},
    {"task": "build", "config": "large", "effective_bits": 3.0, "n_weights": 9000},
    {"task": "count", "config": "small", "given_bytes": {"packed": 400}},
    {"task": "count", "config": "large", "given_bytes": {"packed": 3600}},
    weights("small", 20_000),
    weights("large", 32_000),
    {
        "task": "memory",
        "config": "64x50x2",
        "peak_bytes": 91e6,
        "peak_after": {"python": 12e6, "import": 30e6, "open": 90e6, "preset": 91e6},
    },
    {
        "task": "start",
        "config": "64x50x2",
        "first_ranking_s": 0.9,
        "first_ranking_with_python_s": 1.1,
        "parts_s": {"python": 0.2, "import": 0.3, "open": 0.6},
    },
    {
        "task": "swap",
        "config": "64x50x2",
        "swap": "adapter",
        "swap_us": {"p50": 1000.0, "p90": 1001.0},
        "preset_us": {"p50": 1.0, "p90": 1.0},
        "parts_us": {"decode and check": 100.0, "weights, or sessions": 900.0},
    },
    {
        "task": "slate",
        "config": "64x50x2",
        "p50_us": {"rerank": 30.0, "observe": 35.0, "observe + rerank": 65.0, "slate": 361.0},
        "slate_per_rerank": 361 / 30,
        "slate_per_observe_rerank": 361 / 65,
    },
    {
        "task": "kernels",
        "config": "64x50x2",
        "compute": "packed",
        "step_us": {"p50": 1.0, "p90": 2.0},
        "prefill_us": {"p50": 3.0, "p90": 4.0},
        "kernels": [],
    },
    {"task": "kernels", "config": "64x50x2", "compute": "int8", "error": "BackendError: no"},
]


@pytest.fixture
def result() -> dict[str, Any]:
    """A whole run, made up."""
    return {
        "command": "python -m benchmarks.runtime_costs",
        "date": "2030-01-01T00:00:00+00:00",
        "settings": {"repeat": 5, "min_seconds": 0.5, "min_runs": 50, "n_items": 5000},
        "environment": {"cpu": "an abacus"},
        "targets": targets(RECORDS),
        "records": RECORDS,
    }


class TestTargets:
    """Measured figures beside what was wanted."""

    @pytest.mark.parametrize(
        ("what", "verdicts"),
        [
            ("peak RSS", [False]),
            ("import to first", [True]),
            ("Python's own start", [False]),
            ("plan swap with adapter, p50", [True]),
            ("plan swap with adapter, p90", [False]),
            ("slate of 10", [False]),
            ("resident weights", [False]),
        ],
    )
    def test_a_limit_is_met_or_missed(self, what: str, verdicts: list[bool]) -> None:
        """Exactly at the limit is met; a hair above is not."""
        found = [entry for entry in targets(RECORDS) if what in entry["what"]]

        assert [entry["is_met"] for entry in found] == verdicts
        assert all(bool(entry["bound_by"]) != entry["is_met"] for entry in found)

    def test_what_bounds_it_begins_with_the_largest_part(self) -> None:
        """Of memory: what a step adds, not what it ends on."""
        found = {entry["what"]: entry["bound_by"] for entry in targets(RECORDS)}

        assert ": open 60.00, import 18.00, python 12.00" in found["peak RSS of a device process"]
        assert ": weights, or sessions 0.90, decode" in found["plan swap with adapter, p90"]

    def test_memory_per_weight_is_a_difference(self) -> None:
        """12 kB for 8,000 more weights; 3,600 B for 9,000 of them are given."""
        (entry,) = resident_bits(RECORDS)

        assert entry["resident_bits"] == 12.0
        assert entry["given_bits"] == 3.2
        assert entry["effective_bits"] == 3.0

    def test_memory_without_its_counterpart_is_left_out(self) -> None:
        """When the small model could not be measured."""
        assert resident_bits([r for r in RECORDS if r["config"] != "small"]) == []


class TestPage:
    """What is shown."""

    def test_every_row_is_as_wide_as_its_head(self, result: dict[str, Any]) -> None:
        """In all eight tables."""
        found = sheets(result)

        assert len(found) == 8
        assert all(len(row) == len(sheet.columns) for sheet in found for row in sheet.rows)

    def test_missed_targets_are_marked_and_explained(self, result: dict[str, Any]) -> None:
        """In the words in which they were set."""
        text = page(result)

        assert "| <= 90 MB | 91.00 MB | MISSED |" in text
        assert "- slate of 10 from 100, sequential, 64x50x2: 9 steps of the model" in text

    def test_what_failed_is_said(self, result: dict[str, Any]) -> None:
        """With the error."""
        assert "- 64x50x2 kernels compute=int8: BackendError: no" in page(result)

    def test_a_short_run_is_called_one(self, result: dict[str, Any]) -> None:
        """So that nobody quotes it."""
        assert "trial run" not in page(result)
        assert "trial run" in page({**result, "settings": {**result["settings"], "repeat": 1}})

    def test_it_is_drawn_again_from_json(self, result: dict[str, Any], tmp_path: Path) -> None:
        """Without measuring anything."""
        (tmp_path / "run.json").write_text(json.dumps(result))
        report = tmp_path / "pages" / "runtime.md"

        drawn = CliRunner().invoke(
            main, ["--from", str(tmp_path / "run.json"), "--report", str(report)]
        )

        assert drawn.exit_code == 0, drawn.output
        assert report.read_text() == page(result)


class TestSettings:
    """What to measure."""

    def test_the_command_says_what_differs(self) -> None:
        """And nothing else."""
        assert CostSettings().command == "python -m benchmarks.runtime_costs"
        settings = CostSettings(configs=CONFIGS[:2], n_items=500)
        assert settings.command.endswith("--configs 64x50x2,64x200x2 --items 500")

    def test_nothing_to_measure_is_refused(self) -> None:
        """As is a model that is none."""
        with pytest.raises(ConfigError, match="something to measure"):
            CostSettings(repeat=0)
        with pytest.raises(ConfigError, match="L x blocks"):
            CostSettings(large="big")
        with pytest.raises(ConfigError, match="D above 64"):
            CostSettings(large="64x8x4")


def test_answers_become_medians() -> None:
    """At every depth; an error is not averaged away."""
    answers = [{"a": n, "b": {"c": 2.0 * n}, "d": ["x"]} for n in (3, 1, 2)]

    assert medians(answers) == {"a": 2, "b": {"c": 4.0}, "d": ["x"]}
    assert medians([*answers, {"error": "no"}]) == {"error": "no"}


def test_shuffled_plans_fill_the_same_slots(tmp_path: Path) -> None:
    """As many channels of each width per layer, other channels."""
    bundle = write_seeded_bundle(tmp_path, Shape(d=16, window=4, blocks=1, n_items=100))
    plan = bundle.read_default_plan()
    other = shuffled_plan(plan, seed=1)

    assert other != plan
    assert coded_bytes(other.layers, other.widths) == coded_bytes(plan.layers, plan.widths)
    before, after = (split_by_layer(each.codes, plan.layers) for each in (plan, other))
    assert all(sorted(before[name]) == sorted(after[name]) for name in before)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model that was built."""
    job = {
        "task": "build",
        "shape": {"d": 16, "window": 4, "blocks": 1, "n_items": 120},
        "model": str(tmp_path_factory.mktemp("costs")),
        "seed": 0,
        "min_seconds": 0.0,
        "min_runs": 2,
        "spawned_ns": 0,
    }
    assert run_task(job)["n_weights"] == 6 * 16 * 16
    return job


class TestWorker:
    """The tasks themselves, in this process, on a tiny model."""

    def test_memory_only_rises(self, job: dict[str, Any]) -> None:
        """From Python alone to the change of preset."""
        found = run_task({**job, "task": "memory"})

        levels = list(found["peak_after"].values())
        assert levels == sorted(levels)
        assert found["peak_bytes"] == levels[-1]

    def test_a_start_is_the_sum_of_its_parts(self, job: dict[str, Any]) -> None:
        """Python's own is told apart."""
        found = run_task({**job, "task": "start"})

        total = found["first_ranking_with_python_s"]
        assert total == pytest.approx(sum(found["parts_s"].values()))
        assert found["first_ranking_s"] == pytest.approx(total - found["parts_s"]["python"])

    @pytest.mark.parametrize("swap", ["adapter", "rebuild", "auto"])
    def test_swaps_are_timed_with_their_parts(self, swap: str, job: dict[str, Any]) -> None:
        """Of the plan, and of the preset."""
        found = run_task({**job, "task": "swap", "swap": swap})

        assert next(iter(found["parts_us"])) == "decode and check"
        assert min(found["swap_us"]["p50"], found["preset_us"]["p50"]) > 0

    @pytest.mark.parametrize("compute", ["fp32", "int8", "packed", "auto"])
    def test_every_kernel_is_timed_and_weighed(self, compute: str, job: dict[str, Any]) -> None:
        """With a word on what it is."""
        timed = run_task({**job, "task": "kernels", "compute": compute})
        weighed = run_task({**job, "task": "weights", "compute": compute, "swap": "auto"})

        assert timed["kernels"] == weighed["kernels"] != []
        assert weighed["trimmed_bytes"] <= weighed["peak_bytes"]

    def test_bytes_given_to_a_session_are_counted(self, job: dict[str, Any]) -> None:
        """Scales, orders and the biases of two layers included: what a plan prunes is in them."""
        given = run_task({**job, "task": "count"})["given_bytes"]

        assert given["fp32"] == 4 * (6 * 16 * 16 + 2 * 16)
        assert 6 * 16 * 16 < given["int8"] < given["fp32"]
        assert given["packed"] < given["fp32"]

    def test_a_slate_is_set_beside_single_calls(self, job: dict[str, Any]) -> None:
        """In both ways."""
        found = run_task({**job, "task": "slate"})

        times = found["p50_us"]
        assert found["slate_per_rerank"] == times["slate"] / times["rerank"]


@pytest.mark.slow
def test_a_small_run_measures_everything(tmp_path: Path) -> None:
    """Every job gives an answer; memory of tiny models means nothing."""
    arguments = ["--configs", "16x4x1", "--large", "128x8x4", "--repeat", "1", "--items", "120"]
    arguments += ["--min-seconds", "0", "--min-runs", "1", "--json", str(tmp_path / "run.json")]

    done = CliRunner().invoke(main, arguments)

    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "run.json").read_text())
    assert [record["error"] for record in found["records"] if "error" in record] == []
    assert {entry["config"] for entry in found["targets"]} == {"16x4x1", "128x8x4"}
