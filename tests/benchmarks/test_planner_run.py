# SPDX-License-Identifier: Apache-2.0
"""One small table of planners, trained, continued and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import planner
from benchmarks.planner_page import draw, page, plots
from benchmarks.planner_run import PlannerSettings, run
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress

pytest.importorskip("torch", reason="needs the extra 'cloud'")
pytest.importorskip("matplotlib", reason="needs the extra 'plots'")

KEYS = {
    *("dataset", "backbone", "init", "method", "effective_bits", "seed"),
    *("hr@5", "ndcg@5", "hr@10", "ndcg@10"),
    *("hr@5_1:99", "ndcg@5_1:99", "hr@10_1:99", "ndcg@10_1:99"),
    *("plan_bytes", "model_bytes"),
}
METHODS = {
    "float": {"fp32", "fp32-continued", "myqasr", "myqasr-channel"}
    | {f"uniform-{bits}" for bits in (2, 4, 8)},
    "global": {"global"},
    "personal": {"personal", "shuffled", "mean", "random"},
}


@pytest.fixture(scope="module")
def settings(tiny_interactions: Path, tmp_path_factory: pytest.TempPathFactory) -> PlannerSettings:
    """Two seeds of three groups, one epoch each."""
    return PlannerSettings(
        data=(tiny_interactions,),
        backbones=("sasrec",),
        inits=("pretrained_frozen",),
        groups=("float", "global", "personal"),
        seeds=2,
        work=tmp_path_factory.mktemp("work"),
        threads=1,
        max_epochs=1,
    )


def answers_of(settings: PlannerSettings) -> dict[str, int]:
    """Return when every answer was written, in ns."""
    paths = (settings.folder / "answers").glob("*.json")
    return {path.stem: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def runs(settings: PlannerSettings) -> Iterator[tuple[dict[str, int], dict[str, Any]]]:
    """The answers of an interrupted run, and the result of the one that went on."""
    with Progress(disable=True) as progress:
        run(replace(settings, seeds=1, groups=("float",)), progress)
        first = answers_of(settings)
        yield first, run(settings, progress)


class TestRun:
    def test_it_goes_on_where_it_was(
        self, settings: PlannerSettings, runs: tuple[dict[str, int], dict[str, Any]]
    ) -> None:
        """What was done is not done again, all else is; a third run does nothing."""
        first, result = runs
        after = answers_of(settings)

        assert len(first) == 1
        assert first.items() <= after.items()
        assert after.keys() == {unit.name for unit in settings.units()}
        assert (result["failed"], result["left"]) == ([], 0)
        with Progress(disable=True) as progress:
            again = run(settings, progress)
        assert answers_of(settings) == after
        assert again["records"] == result["records"]

    def test_nothing_is_begun_after_the_deadline(self, settings: PlannerSettings) -> None:
        """It says how much is left."""
        late = replace(settings, work=settings.work / "late", stop_after_s=0.0)
        with Progress(disable=True) as progress:
            result = run(late, progress)

        assert (result["left"], result["records"], result["paired"]) == (6, [], [])

    def test_a_unit_that_fails_is_told(self, settings: PlannerSettings, tmp_path: Path) -> None:
        """The others go on."""
        wrong = tmp_path / "odd" / "interactions.txt"
        wrong.parent.mkdir()
        wrong.write_text("u a\n")
        odd = replace(settings, data=(wrong,), work=tmp_path, seeds=1, groups=("float",))
        with Progress(disable=True) as progress:
            result = run(odd, progress)

        (failure,) = result["failed"]
        assert failure["unit"] == "odd-sasrec-0-pretrained_frozen-float"
        assert "at least 3 events" in failure["error"]

    def test_records_have_what_is_asked_for(
        self, runs: tuple[dict[str, int], dict[str, Any]]
    ) -> None:
        """Each method of every group, once per seed."""
        records = runs[1]["records"]

        assert all(record.keys() >= KEYS for record in records)
        found = sorted((record["method"], record["seed"]) for record in records)
        methods = set().union(*METHODS.values())
        assert found == sorted((method, seed) for method in methods for seed in (0, 1))
        for record in records:
            assert (record["dataset"], record["backbone"]) == ("tiny", "sasrec")
            quality = [value for key, value in record.items() if "@" in key]
            assert len(quality) == 8
            assert all(0 <= value <= 1 for value in quality)

    def test_sizes_order_as_widths_do(self, runs: tuple[dict[str, int], dict[str, Any]]) -> None:
        """Only what is sent as a plan weighs as one, and float weighs most."""
        by_method = {record["method"]: record for record in runs[1]["records"]}
        order = ("uniform-2", "global", "uniform-4", "uniform-8", "fp32")
        sizes = [by_method[method]["model_bytes"] for method in order]

        assert sizes == sorted(set(sizes))
        assert by_method["fp32"]["model_bytes"] == by_method["fp32-continued"]["model_bytes"]
        plans = {method for method, record in by_method.items() if record["plan_bytes"]}
        assert plans == {"myqasr", "myqasr-channel", "global", *METHODS["personal"]}

    def test_personal_plans_are_tested_and_swept(
        self, runs: tuple[dict[str, int], dict[str, Any]]
    ) -> None:
        """Against each rival, under other budgets, presets and slots."""
        result = runs[1]

        rivals = {test["rival"]: test["n_seeds"] for test in result["paired"]}
        assert {"fp32", "global", "mean", "random", "shuffled", "myqasr"} <= rivals.keys()
        assert set(rivals.values()) == {2}
        variants = {sweep["variant"] for sweep in result["sweeps"]}
        assert {"bits-2.25", "bits-8", "preset-battery_saver", "preset-full", "slots"} <= variants
        drawn = ["mean_width" in spread for spread in result["spread"]]
        assert drawn == [True, False]


class TestPage:
    def test_everything_is_shown(
        self, runs: tuple[dict[str, int], dict[str, Any]], tmp_path: Path
    ) -> None:
        """The command, a picture of each kind, a row of each method, and where it ran."""
        result = runs[1]

        pictures = plots(result, tmp_path)
        text = page(result, pictures)

        assert len(pictures) == 3
        for name in pictures:
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
            assert f"({name})" in text
        assert result["command"] in text
        for method in set().union(*METHODS.values()):
            assert f"\n| {method} | " in text
        for title in ("Personal plans against each rival", "How plans differ between users"):
            assert f"## {title}" in text
        assert "Trained on: cpu (torch " in text

    def test_a_terminal_shows_the_tables(self, runs: tuple[dict[str, int], dict[str, Any]]) -> None:
        """And what failed."""
        console = Console(record=True, width=200, file=None, quiet=False)
        with console.capture() as captured:
            draw(console, {**runs[1], "failed": [{"unit": "u", "error": "OSError: full"}]})

        for text in ("shuffled", "NDCG@10, 1:99", "95 % interval", "u: OSError: full"):
            assert text in captured.get()

    def test_a_page_is_drawn_from_a_file(
        self, runs: tuple[dict[str, int], dict[str, Any]], tmp_path: Path
    ) -> None:
        """Nothing is trained for it."""
        source, report = tmp_path / "planner.json", tmp_path / "pages" / "planner.md"
        source.write_text(json.dumps(runs[1]))

        result = CliRunner().invoke(
            planner.main, ["--from", str(source), "--report", str(report), "--json", "-"]
        )

        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == json.loads(source.read_text())
        assert len(list(report.parent.glob("planner-*.png"))) == 3

    def test_a_table_of_nothing_is_drawn(self) -> None:
        """Before the first unit is done."""
        empty: dict[str, Any] = {"records": [], "paired": [], "sweeps": [], "spread": []}
        console = Console(width=100)
        with console.capture() as captured:
            draw(console, {**empty, "skipped": "peers: need x"})

        assert captured.get().strip() == "peers: need x"

    def test_a_wrong_option_is_one_line(self, tiny_interactions: Path) -> None:
        """No traceback."""
        result = CliRunner().invoke(
            planner.main, ["--data", str(tiny_interactions), "--groups", "magic"]
        )

        assert result.exit_code == 1
        assert "groups: expected some of float" in result.output
