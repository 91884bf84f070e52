# SPDX-License-Identifier: Apache-2.0
"""Comparing two result files, as programs and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.device.bench.samples_of_results import EXAMPLE, chosen, example

from pocketrec.cli import exit_code_of
from pocketrec.errors import ConfigError
from pocketrec_device.bench.compare import Comparison, compare_results
from pocketrec_device.bench.comparison_page import markdown_of, sentence_of
from pocketrec_device.bench.decision import Rule, Verdict
from pocketrec_device.bench.result import BenchResult, read_result
from pocketrec_device.bench_compare_cli import compare

STEADY = [100.0, 101.0, 99.0, 100.5, 99.5, 100.0, 100.2, 99.8]
SLOWER = [1.15 * value for value in STEADY]
RULE = Rule(n_resamples=1000)


def compared(base: dict[str, Any], head: dict[str, Any], **options: bool) -> Comparison:
    """Compare two results."""
    first, second = (BenchResult.from_json(each) for each in (base, head))
    return compare_results(first, second, RULE, **options)


def verdicts(comparison: Comparison) -> dict[str, Verdict]:
    """Return verdicts by number."""
    return {row.metric: row.change.verdict for row in comparison.rows}


class TestVerdicts:
    def test_a_slower_operation_is_the_regression(self) -> None:
        """Its row says so, and so does the whole comparison; start and bytes did not change."""
        found = compared(chosen(STEADY), chosen(SLOWER))

        assert found.verdict is Verdict.REGRESSION
        assert [row.metric for row in found.of(Verdict.REGRESSION)] == ["p50 rerank"]

    def test_the_same_is_equal(self) -> None:
        """No number changed."""
        assert compared(chosen(STEADY), chosen(STEADY)).verdict is Verdict.EQUAL

    def test_more_bytes_are_a_regression(self) -> None:
        """Ten percent more on the wire."""
        base = chosen(STEADY)
        wire_bytes = round(1.1 * base["records"][0]["wire_bytes"])

        found = compared(base, chosen(STEADY, wire_bytes=wire_bytes))

        assert verdicts(found)["wire_bytes"] is Verdict.REGRESSION

    def test_worse_ranking_is_a_regression(self) -> None:
        """Of quality, more is better."""
        base = chosen(STEADY)
        quality = base["records"][0]["quality"]
        worse = quality | {"ndcg@10": 0.9 * quality["ndcg@10"]}

        found = compared(base, chosen(STEADY, quality=worse))

        assert verdicts(found)["ndcg@10"] is Verdict.REGRESSION
        assert verdicts(found)["hr@10"] is Verdict.EQUAL
        (row,) = found.of(Verdict.REGRESSION)
        assert row.change.ratio == pytest.approx(0.9)

    def test_a_slower_machine_is_not_blamed_on_the_build(self) -> None:
        """The yardstick slowed down as well, so no time is judged, and the reader is told why."""
        found = compared(chosen(STEADY), chosen(SLOWER, yardstick_us=46.0))

        assert found.verdict is Verdict.EQUAL
        assert verdicts(found)["p50 rerank"] is Verdict.UNSURE
        assert any("--interleave" in note for note in found.notes)

    def test_turns_need_no_yardstick(self) -> None:
        """What happened to both sides of a turn cancels out, so the change counts."""
        pair = {"pair_id": "same"}
        found = compared(chosen(STEADY, **pair), chosen(SLOWER, yardstick_us=46.0, **pair))

        assert found.is_paired
        assert verdicts(found)["p50 rerank"] is Verdict.REGRESSION

    @pytest.mark.parametrize(
        ("pair_id", "expected"), [("", Verdict.UNSURE), ("same", Verdict.REGRESSION)]
    )
    def test_start_times_are_judged_in_turns_only(self, pair_id: str, expected: Verdict) -> None:
        """Loading twice as long between two runs may be a busier machine; in turns it is not."""
        base, head = (chosen(STEADY, pair_id=pair_id) for _ in range(2))
        for process in head["records"][0]["processes"]:
            process["load_ms"] *= 2

        assert verdicts(compared(base, head))["load_ms"] is expected

    def test_few_processes_are_remarked_on(self) -> None:
        """Three processes decide nothing, and the note says how many do."""
        found = compared(chosen(STEADY[:3]), chosen(SLOWER[:3]))

        assert found.verdict is Verdict.EQUAL
        assert any("--repeat 10" in note for note in found.notes)

    def test_quality_from_nothing_is_an_improvement(self) -> None:
        """A model that found no item before, and finds some now; there is no ratio."""
        quality = chosen(STEADY)["records"][0]["quality"]
        base = chosen(STEADY, quality=quality | {"hr@10": 0.0})

        found = compared(base, chosen(STEADY))

        (row,) = found.of(Verdict.IMPROVEMENT)
        assert (row.metric, row.change.base, row.to_json()["ratio"]) == ("hr@10", 0.0, None)
        assert "from 0" in markdown_of(found)

    def test_what_is_doubtful_is_remarked_on(self) -> None:
        """Flags of a result stand beside what is concluded from it."""
        flag = {"flag": "noisy", "operation": None, "found": 2, "limit": 1, "text": ""}
        base = chosen(STEADY, validity={"is_valid": True, "flags": []})
        head = chosen(STEADY, validity={"is_valid": False, "flags": [flag]})

        notes = compared(base, head).notes

        assert notes == ("1 of 1 cells of the second result are doubtful: noisy",)

    def test_unsure_is_not_called_equal(self) -> None:
        """Nobody reads of equality where nothing could be told."""
        unsure = compared(chosen(STEADY[:3]), chosen(STEADY[:3]))

        assert sentence_of(unsure).startswith("no change found: of ")

    def test_what_only_one_has_is_named(self) -> None:
        """Four of the example's rows have no partner."""
        found = compared(example(), chosen(STEADY))

        assert sum("only one result" in note for note in found.notes) == 4


class TestRefusals:
    def test_another_machine(self) -> None:
        """Times of two machines say nothing; bytes and quality do, on request."""
        base, head = chosen(STEADY), chosen(SLOWER)
        head["environment"]["hardware"] = {"cpu": "another"}

        with pytest.raises(ConfigError, match="'another'"):
            compared(base, head)
        found = compared(base, head, is_other_machine_allowed=True)
        assert {row.unit for row in found.rows} == {"bytes", ""}

    def test_what_differs_between_machines_is_named(self) -> None:
        """Two machines of one name may differ in memory or in the governor."""
        head = chosen(STEADY)
        head["environment"]["hardware"]["governor"] = "powersave"

        with pytest.raises(ConfigError, match="found governor None and 'powersave'"):
            compared(chosen(STEADY), head)

    @pytest.mark.parametrize("key", ["n_candidates", "seed"])
    def test_another_question(self, key: str) -> None:
        """Ranking more candidates takes longer, whatever the build."""
        head = chosen(STEADY)
        head["config"][key] += 1

        with pytest.raises(ConfigError, match=key):
            compared(chosen(STEADY), head)

    def test_no_cell_in_common(self) -> None:
        """Both lists of cells are in the message."""
        with pytest.raises(ConfigError, match="same names"):
            compared(chosen(STEADY), chosen(STEADY, cell="other/numpy/balanced/1/single"))


class TestReading:
    def test_a_real_result_is_read(self) -> None:
        """Five rows of three processes, with every operation."""
        result = read_result(EXAMPLE)

        assert [len(cell.processes) for cell in result.cells.values()] == [3] * 5
        assert {len(cell.operations) for cell in result.cells.values()} == {7}

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"schema": "pocketrec.bench/2"}', '{"schema": "x", "a": 1}']
    )
    def test_what_is_no_result_is_refused_with_its_path(self, tmp_path: Path, content: str) -> None:
        """The file is named, and the exit code is that of a wrong argument."""
        path = tmp_path / "other.json"
        path.write_text(content)

        with pytest.raises(ConfigError, match=r"other\.json") as caught:
            read_result(path)

        assert exit_code_of(caught.value) == 2

    @pytest.mark.parametrize(
        "damage",
        [
            {"processes": []},
            {"processes": [{}]},
            {"processes": 5},
            {"validity": None},
            {"wire_bytes": "many"},
            {"wire_bytes": float("inf")},
            {"wire_bytes": -1},
            {"quality": {"hr@10": 2.0, "ndcg@10": 0.5}},
            {"quality": {"hr@10": float("nan"), "ndcg@10": 0.5}},
        ],
    )
    def test_a_damaged_record_is_refused(self, tmp_path: Path, damage: dict[str, Any]) -> None:
        """Whatever is missing or of another type."""
        path = tmp_path / "damaged.json"
        path.write_text(json.dumps(chosen(STEADY, **damage)))

        with pytest.raises(ConfigError, match=r"damaged\.json"):
            read_result(path)

    @pytest.mark.parametrize("key", ["hardware", "versions"])
    def test_an_environment_of_another_shape_is_refused(self, key: str) -> None:
        """Machines are compared fact by fact."""
        result = chosen(STEADY)
        result["environment"][key] = ["a", "b"]

        with pytest.raises(ConfigError, match="expected all keys"):
            BenchResult.from_json(result)

    @pytest.mark.parametrize("times_us", [[0.0], [-1.0], [float("inf")]])
    def test_times_that_cannot_be_are_refused(self, times_us: list[float]) -> None:
        """A time of zero would have no logarithm."""
        with pytest.raises(ConfigError, match="above 0"):
            BenchResult.from_json(chosen(times_us))


class TestCommand:
    def run(self, tmp_path: Path, head: dict[str, Any], *options: str) -> Result:
        """Compare a file with that of steady times."""
        paths = [tmp_path / "base.json", tmp_path / "head.json"]
        for path, result in zip(paths, (chosen(STEADY), head), strict=True):
            path.write_text(json.dumps(result))
        return CliRunner(env={"COLUMNS": "200"}).invoke(compare, [*map(str, paths), *options])

    def test_a_regression_ends_with_1(self, tmp_path: Path) -> None:
        """The table names the number, and its change with an interval."""
        done = self.run(tmp_path, chosen(SLOWER))

        assert done.exit_code == 1
        assert "▲ regression" in done.stdout
        assert "+15.0%" in done.stdout

    @pytest.mark.parametrize("threshold", ["20%", "0.2"])
    def test_a_threshold_is_a_share(self, tmp_path: Path, threshold: str) -> None:
        """15 % is no regression where 20 % are allowed, however that is written."""
        assert self.run(tmp_path, chosen(SLOWER), "--threshold", threshold).exit_code == 0

    def test_bytes_from_nothing_are_a_regression(self, tmp_path: Path) -> None:
        """JSON has no infinite ratio: programs get null."""
        base, head, out = tmp_path / "base.json", tmp_path / "head.json", tmp_path / "out.json"
        base.write_text(json.dumps(chosen(STEADY, plan_bytes=0)))
        head.write_text(json.dumps(chosen(STEADY, plan_bytes=343)))

        done = CliRunner().invoke(compare, [str(base), str(head), "--json", str(out)])

        assert done.exit_code == 1, done.output
        (row,) = [row for row in json.loads(out.read_text())["rows"] if row["base"] == 0]
        assert (row["metric"], row["ratio"], row["verdict"]) == ("plan_bytes", None, "regression")

    def test_names_are_text(self, tmp_path: Path) -> None:
        """Rows are called as files are: neither the terminal nor Markdown takes them for markup."""
        cell, page = "a|b[/red]/onnxruntime/balanced/1/single", tmp_path / "comment.md"
        base, head = tmp_path / "base.json", tmp_path / "head.json"
        for path in (base, head):
            path.write_text(json.dumps(chosen(STEADY, cell=cell)))

        done = CliRunner().invoke(compare, [str(base), str(head), "--markdown", str(page)])

        assert done.exit_code == 0, done.output
        assert cell in done.stdout
        assert r"| a\|b\[/red\]/onnxruntime" in page.read_text()

    def test_equal_ends_with_0_and_writes_json(self, tmp_path: Path) -> None:
        """Programs get every row with its verdict."""
        out = tmp_path / "out.json"

        done = self.run(tmp_path, chosen(STEADY), "--json", str(out))

        assert done.exit_code == 0
        found = json.loads(out.read_text())
        assert found["verdict"] == "equal"
        assert {row["metric"] for row in found["rows"]} >= {"p50 rerank", "wire_bytes", "ndcg@10"}

    def test_markdown_shows_what_changed_first(self, tmp_path: Path) -> None:
        """The changed number stands above the fold, all others below."""
        page = tmp_path / "comment.md"

        self.run(tmp_path, chosen(SLOWER), "--markdown", str(page))

        above, below = page.read_text().split("<details>")
        assert "| p50 rerank |" in above
        assert "| wire bytes |" not in above
        assert "| wire bytes |" in below

    @pytest.mark.parametrize("option", ["--base-python", "--head-python"])
    def test_options_of_measuring_are_not_ignored(self, tmp_path: Path, option: str) -> None:
        """Files are compared as they are; an interpreter would change nothing."""
        done = self.run(tmp_path, chosen(STEADY), option, "python3")

        assert isinstance(done.exception, ConfigError)
        assert "--interleave only" in str(done.exception)

    def test_a_threshold_that_is_no_number(self, tmp_path: Path) -> None:
        """Usage errors end with 2."""
        assert self.run(tmp_path, chosen(STEADY), "--threshold", "some").exit_code == 2
