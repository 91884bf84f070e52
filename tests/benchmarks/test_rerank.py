# SPDX-License-Identifier: Apache-2.0
"""What the benchmark concludes and shows, from times that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks.rerank import main
from benchmarks.rerank_analysis import TARGETS, bounds, merge, ratios, work_of
from benchmarks.rerank_page import page, sheets
from benchmarks.rerank_run import CONFIGS, METHODS, Settings
from benchmarks.rerank_worker import best, stored_bits
from benchmarks.sampling import sample
from benchmarks.shapes import Shape
from click.testing import CliRunner

from pocketrec.errors import ConfigError

MACHINE: dict[str, Any] = {
    "gflops": {"numpy 512": 50.0, "onnxruntime 512": 100.0},
    "gflops_best": 100.0,
    "gflops_best_of": "onnxruntime 512",
    "caches": {"L2": 1_000_000, "L3": 8_000_000},
    "bandwidth": [
        {"level": "L2", "bytes": 500_000, "read_gb_s": 100.0, "copy_gb_s": 80.0},
        {"level": "L3", "bytes": 4_000_000, "read_gb_s": 50.0, "copy_gb_s": 40.0},
        {"level": "memory", "bytes": 32_000_000, "read_gb_s": 10.0, "copy_gb_s": 8.0},
    ],
}


def process(p50_us: float, *, error: float = 0.0, **more: object) -> dict[str, Any]:
    """What one process of a method reports."""
    return {
        "p50_us": p50_us,
        "p90_us": 2 * p50_us,
        "p99_us": 3 * p50_us,
        "n": 10,
        "cpu_share": 1.0,
        "rss_bytes": 2**20,
        "max_abs_error": error,
        "max_abs_score": 1.0,
        "top10_overlap": 1.0,
        **more,
    }


def record(
    method: str, *times_us: float, config: str = "64x50x2", **more: object
) -> dict[str, Any]:
    """The record of a method over some rounds."""
    merged = merge([process(time, **more) for time in times_us], is_exact=True)
    return {"method": method, "config": config, "bundle_or_model_bytes": 1000, **merged}


class TestShape:
    """The name of a configuration."""

    def test_it_is_read(self) -> None:
        """Dimensions, window, blocks; four heads beyond 128 dimensions."""
        shape = Shape.parse("256x200x4")

        assert (shape.d, shape.window, shape.blocks, shape.n_heads) == (256, 200, 4, 4)
        assert shape.name == "256x200x4"

    @pytest.mark.parametrize("text", ["", "64", "64x50", "64x50xtwo", "63x50x2", "64x1x2", "0x5x1"])
    def test_nonsense_is_refused(self, text: str) -> None:
        """With an error that says what was expected."""
        with pytest.raises(ConfigError, match="expected"):
            Shape.parse(text)

    def test_more_candidates_than_items_are_refused(self) -> None:
        """They are drawn without repetition."""
        with pytest.raises(ConfigError, match="n_candidates"):
            Shape.parse("64x50x2", n_items=99)


class TestSettings:
    """What to measure."""

    def test_all_targets_are_of_the_default_run(self) -> None:
        """A target that nobody measures would never be missed."""
        assert {config for config, _ in TARGETS} == set(CONFIGS)
        assert {method for _, method in TARGETS} <= set(METHODS)

    def test_the_command_repeats_the_run(self) -> None:
        """Defaults are left out."""
        settings = Settings(configs=("8x6x1", "8x9x1"), repeat=1, n_items=200)

        assert settings.command == (
            "python -m benchmarks.rerank --configs 8x6x1,8x9x1 --repeat 1 --items 200"
        )
        assert Settings().command == "python -m benchmarks.rerank"

    @pytest.mark.parametrize(
        "wrong",
        [{"methods": ("abacus",)}, {"methods": ()}, {"configs": ()}, {"repeat": 0}],
        ids=str,
    )
    def test_nonsense_is_refused(self, wrong: dict[str, Any]) -> None:
        """Before anything is built."""
        with pytest.raises(ConfigError):
            Settings(**wrong)

    def test_a_wrong_option_is_one_line(self) -> None:
        """No traceback."""
        result = CliRunner().invoke(main, ["--methods", "abacus"])

        assert result.exit_code == 1
        assert "abacus" in result.output


class TestMerge:
    """One record from several processes."""

    def test_times_are_medians_and_calls_are_summed(self) -> None:
        """Each process counts once, however many calls it made."""
        merged = merge([process(5.0), process(1.0), process(3.0)], is_exact=True)

        assert (merged["p50_us"], merged["p90_us"], merged["p99_us"]) == (3.0, 6.0, 9.0)
        assert merged["n"] == 30
        assert [one["p50_us"] for one in merged["rounds"]] == [5.0, 1.0, 3.0]

    @pytest.mark.parametrize("error", [1e-4, float("nan")])
    def test_a_float_peer_that_disagrees_is_an_error(self, error: float) -> None:
        """Fast and wrong does not count; neither do scores that are no numbers."""
        merged = merge([process(1.0, error=error)], is_exact=True)

        assert merged["error"]["type"] == "Disagreement"

    def test_a_quantized_peer_may_disagree(self) -> None:
        """How far is recorded."""
        merged = merge([process(1.0, error=0.01)], is_exact=False)

        assert "error" not in merged
        assert merged["max_abs_error"] == 0.01

    def test_a_failure_in_any_round_is_kept(self) -> None:
        """And leaves no times that could be taken for complete."""
        error = {"task": "convert", "type": "ValueError", "message": "no"}

        assert merge([process(1.0), {"error": error}], is_exact=True) == {"error": error}


class TestRatios:
    """How many times faster than the best peer."""

    def test_they_are_taken_within_a_round(self) -> None:
        """The machine was twice as slow in the second; the ratio is not."""
        records = [record("pocketrec-step", 10, 20, 10), record("mnn", 50, 100, 60)]

        (found,) = ratios(records)

        assert (found["ratio"], found["min"], found["max"]) == (5.0, 5.0, 6.0)
        assert (found["target"], found["is_met"]) == (4.0, True)

    def test_the_best_peer_is_chosen_in_each_round(self) -> None:
        """A peer that is best on average need not be best in every round."""
        records = [
            record("pocketrec-cold", 10, 10, 10),
            record("mnn", 20, 40, 20),
            record("ort-fp32", 30, 30, 30),
        ]

        (found,) = ratios(records)

        assert (found["min"], found["max"]) == (2.0, 3.0)
        assert found["best_peer"] == "mnn"

    def test_what_failed_is_no_peer(self) -> None:
        """Neither a wrong answer nor one that never came, nor another configuration's."""
        records = [
            record("pocketrec-step", 10),
            record("ort-fp32", 1, error=0.5),
            {"method": "mnn", "config": "64x50x2", "skipped": "needs MNN"},
            record("mnn", 5, config="64x200x2"),
            record("torch-eager", 30),
        ]

        (found,) = ratios(records)

        assert (found["best_peer"], found["ratio"]) == ("torch-eager", 3.0)
        assert found["is_met"] is False

    def test_without_peers_there_are_none(self) -> None:
        """Nothing to compare with."""
        assert ratios([record("pocketrec-step", 10)]) == []


class TestBounds:
    """What the machine could do."""

    def test_the_work_of_a_step_is_counted(self) -> None:
        """D 2, L 3, one block, 10 candidates: by hand."""
        work = work_of(Shape(d=2, window=3, blocks=1, n_items=10, n_candidates=10))

        # 6 matrices of 2 x 2, each entry multiplied and added: 48. Attention: 2 x 3 x 2
        # products, each two operations: 24. Candidates: 10 x 2 products: 40.
        assert work["pocketrec-step"].flops == 48 + 24 + 40
        # 24 weights, 2 x 3 x 2 cached numbers, 20 of candidates, 4 bytes each.
        assert work["pocketrec-step"].n_bytes == 4 * (24 + 12 + 20)

    def test_stored_bits_count(self) -> None:
        """Weights at 8 bits are a fourth of the bytes; nothing else changes."""
        shape = Shape.parse("64x50x2")
        wide, narrow = (work_of(shape, weight_bits=bits)["pocketrec-step"] for bits in (32, 8))

        assert wide.n_bytes - narrow.n_bytes == 2 * 6 * 64 * 64 * 3
        assert wide.flops == narrow.flops

    def test_a_peer_computes_more_than_a_cold_start(self) -> None:
        """All rows of the last block, and the masked half of attention."""
        work = work_of(Shape.parse("64x200x2"))

        assert work["peer"].flops > work["pocketrec-cold"].flops > 50 * work["pocketrec-step"].flops

    def test_the_larger_time_is_the_bound(self) -> None:
        """A step is bound by bytes; the level is the smallest that holds them."""
        shape = Shape.parse("64x50x2")
        records = [record("pocketrec-step", 10), record("mnn", 100)]

        step, peer = bounds(records, [shape], MACHINE)

        assert (step["level"], step["method"], peer["method"]) == ("L2", "pocketrec-step", "mnn")
        assert step["bound_us"] == step["bytes_us"] == step["bytes"] / 100 / 1e3
        assert step["distance"] == pytest.approx(10 / step["bound_us"])
        assert peer["bound_us"] == peer["flops_us"]

    def test_what_no_cache_holds_comes_from_memory(self) -> None:
        """256 dimensions and 4 blocks fit the third level, a thousand fit none."""
        shapes = [Shape.parse("256x200x4"), Shape.parse("1024x200x4")]
        records = [record("pocketrec-step", 1000, config=shape.name) for shape in shapes]

        found = bounds(records, shapes, MACHINE)

        assert [one["level"] for one in found] == ["memory", "memory"]
        halved = bounds([{**records[0], "stored_bits": 8.0}], shapes[:1], MACHINE)
        assert halved[0]["level"] == "L3"


class TestWorker:
    """The clock, and what is in it."""

    def test_the_best_come_first(self) -> None:
        """As ids."""
        scores = np.array([0.1, 0.9, -1.0, 0.5], np.float32)

        assert best(scores, ["a", "b", "c", "d"], 3) == ["b", "d", "a"]

    def test_stored_bits_are_averaged_over_channels(self) -> None:
        """However a release reports them."""
        by_channel = [SimpleNamespace(stored={2: 3, 8: 1}), SimpleNamespace(stored={4: 4})]

        assert stored_bits(by_channel) == (2 * 3 + 8 + 4 * 4) / 8
        assert stored_bits([SimpleNamespace(stored_bits=32)]) == 32

    def test_both_minima_are_reached(self) -> None:
        """At least so many calls; and percentiles in order."""
        calls = []
        found = sample(lambda: calls.append(1), {"min_runs": 7, "min_seconds": 0})

        assert found["n"] == 7
        assert len(calls) == 14  # warmed up with as many
        assert found["p50_us"] <= found["p90_us"] <= found["p99_us"]
        assert found["rss_bytes"] > 2**20


@pytest.fixture
def result() -> dict[str, Any]:
    """A run that never was."""
    records = [
        record("pocketrec-step", 10, computed=["float32 (made up)"], stored_bits=8.0),
        record("ort-fp32", 50),
        {"method": "mnn", "config": "64x50x2", "skipped": "needs MNN: pip install something"},
        {
            "method": "mnn-int8",
            "config": "64x50x2",
            "error": {"task": "convert", "type": "RuntimeError", "message": "wrote no file"},
        },
    ]
    return {
        "command": "python -m benchmarks.rerank",
        "date": "2030-01-01T00:00:00+00:00",
        "settings": {
            "configs": ["64x50x2"],
            "repeat": 1,
            "min_seconds": 0.5,
            "min_runs": 200,
            "n_items": 5000,
        },
        "environment": {"cpu": "an abacus", "commit": ""},
        "records": records,
        "ratios": ratios(records),
        "machine": MACHINE,
        "bounds": bounds(records, [Shape.parse("64x50x2")], MACHINE),
        "breakdown": {
            "64x50x2": {
                "observe_rerank_us": 9.0,
                "observe_us": 5.0,
                "rerank_us": 4.0,
                "look_up_us": 3.0,
                "best_us": 2.0,
                "empty_ort_call_us": 1.0,
            }
        },
    }


class TestPage:
    """What is shown."""

    def test_every_table_is_there(self, result: dict[str, Any]) -> None:
        """And every row is as wide as its head."""
        found = sheets(result)

        assert len(found) == 6
        assert all(len(row) == len(sheet.columns) for sheet in found for row in sheet.rows)

    def test_a_ratio_stands_beside_its_target(self, result: dict[str, Any]) -> None:
        """5 times, where 4 were asked for."""
        assert "| 64x50x2 | pocketrec-step | ort-fp32 | 5.00 | 5.00–5.00 | 4 | yes |" in page(
            result
        )

    def test_what_was_not_measured_is_said(self, result: dict[str, Any]) -> None:
        """With what to install, or what went wrong."""
        text = page(result)

        assert "- mnn at 64x50x2: needs MNN: pip install something" in text
        assert "- mnn-int8 at 64x50x2: convert failed with RuntimeError: wrote no file" in text

    def test_a_short_run_is_called_one(self, result: dict[str, Any]) -> None:
        """So that nobody quotes it."""
        assert "trial run" in page(result)
        assert "trial run" not in page({**result, "settings": {**result["settings"], "repeat": 3}})

    def test_it_is_drawn_again_from_json(self, result: dict[str, Any], tmp_path: Path) -> None:
        """Without measuring anything."""
        (tmp_path / "run.json").write_text(json.dumps(result))
        report = tmp_path / "pages" / "rerank.md"

        drawn = CliRunner().invoke(
            main, ["--from", str(tmp_path / "run.json"), "--report", str(report)]
        )

        assert drawn.exit_code == 0, drawn.output
        assert "ort-fp32" in drawn.output
        assert report.read_text() == page(result)

    def test_failed_measurements_of_the_machine_leave_the_rest(
        self, result: dict[str, Any]
    ) -> None:
        """Times are still worth showing."""
        error = {"error": {"task": "machine", "type": "OSError", "message": "no"}}
        text = page({**result, "machine": error, "bounds": [], "breakdown": {"64x50x2": error}})

        assert "pocketrec-step" in text
        assert "GFLOP" not in text
