# SPDX-License-Identifier: Apache-2.0
"""The commands that measure: files they find and write, and sides that take turns."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from rich.console import Console
from tests.device.bench.conftest import (
    QUICK,
    Inputs,
)
from tests.device.bench.samples_of_results import example

from pocketrec.errors import (
    ConfigError,
)
from pocketrec_device import bench_cli
from pocketrec_device.bench import (
    BenchResult,
    Grid,
    Side,
    Variant,
    read_result,
    run_bench,
    run_sides,
)
from pocketrec_device.bench.processes import Interpreter
from pocketrec_device.bench.tables import draw_result
from pocketrec_device.bench_compare_cli import compare

if TYPE_CHECKING:
    from pocketrec_quantization.bundle import BundleFolder


class TestCommand:
    def test_it_shows_tables_and_writes_json(
        self, bundle: BundleFolder, inputs: Inputs, tmp_path: Path
    ) -> None:
        """A person sees sizes, times and the machine; a program gets all of it."""
        out = tmp_path / "bench.json"
        options = ["--candidates", "5", "--warmup", "0", "--runs", "2", "--min-seconds", "0"]
        files = {"--bundle": bundle.path, "--plan": inputs.mixed, "--cases": inputs.cases}
        words = [str(word) for option in files.items() for word in option]

        done = CliRunner(env={"COLUMNS": "160"}).invoke(
            bench_cli.run,
            [*words, *options, "--repeat", "1", "--json", str(out)],
            catch_exceptions=False,
        )

        assert done.exit_code == 0, done.output
        result = json.loads(out.read_text())
        assert [record["variant"] for record in result["records"]] == ["mixed", "uniform-8"]
        for text in ("Size and quality", "NDCG@10", "observe + rerank", "Start and memory", "p99"):
            assert text in done.stdout

    def test_a_demo_names_all_files_itself(
        self, bundle: BundleFolder, inputs: Inputs, tmp_path: Path
    ) -> None:
        """Rows are the float control, its plans and the default plan; a page is written too."""
        work, page, out = tmp_path / "demo", tmp_path / "out.html", tmp_path / "out.json"
        (work / "build").mkdir(parents=True)
        shutil.copytree(bundle.path, work / "build" / "bundle")
        shutil.copy(inputs.twin, work / "build" / "float.safetensors")
        shutil.copy(inputs.cases, work / "build" / "cases.safetensors")
        shutil.copy(inputs.coarse, work / "uniform-2.plan")
        options = ["--candidates", "5", "--warmup", "0", "--runs", "2", "--min-seconds", "0"]
        files = ["--scenario", "offline", "--html", str(page), "--json", str(out)]

        done = CliRunner(env={"COLUMNS": "160"}).invoke(
            bench_cli.run,
            ["--preset", "demo", "--work", str(work), "--repeat", "1", *options, *files],
            catch_exceptions=False,
        )

        assert done.exit_code == 0, done.output
        records = json.loads(out.read_text())["records"]
        assert [record["variant"] for record in records] == ["float32", "uniform-2", "uniform-8"]
        assert all(record["throughput_per_s"] > 0 for record in records)
        assert "uniform-2" in page.read_text()

    def test_a_bundle_must_be_named(self) -> None:
        """With --bundle, or by a preset."""
        done = CliRunner().invoke(bench_cli.run, [])

        assert isinstance(done.exception, ConfigError)
        assert "--preset demo" in str(done.exception)

    @pytest.mark.parametrize("option", ["--html", "--json"])
    def test_a_file_that_could_not_be_written_is_refused_at_once(
        self, bundle: BundleFolder, tmp_path: Path, option: str
    ) -> None:
        """Not after minutes of measuring."""
        words = ["--bundle", str(bundle.path), option, str(tmp_path / "absent" / "out")]

        done = CliRunner().invoke(bench_cli.run, words)

        assert isinstance(done.exception, ConfigError)
        assert "expected a folder" in str(done.exception)

    def test_seeds_are_what_numpy_takes(self, bundle: BundleFolder) -> None:
        """A negative one is a wrong option, no failing process."""
        words = ["--bundle", str(bundle.path), "--seed", "-1"]

        assert CliRunner().invoke(bench_cli.run, words).exit_code == 2

    def test_names_are_text_on_the_terminal(self) -> None:
        """Rows are called as plan files and planners are, which may look like markup."""
        result = example()
        name = "[red]a[/blue]"
        result["records"][0]["variant"] = result["baseline"] = name
        result["skipped"] = [{"cell": name, "reason": name}]
        out = io.StringIO()

        draw_result(Console(file=out, width=200), result)

        shown = out.getvalue()
        assert f"agreement with {name}" in shown
        assert f"not measured: {name}, {name}" in shown


class TestTurns:
    def test_two_sides_take_turns_and_are_paired(
        self, bundle: BundleFolder, inputs: Inputs, tmp_path: Path
    ) -> None:
        """Two bundles from the command line: both results are kept, and compared as pairs."""
        options = ["--candidates", "5", "--warmup", "0", "--runs", "2", "--min-seconds", "0"]
        plans = ["--base-plan", inputs.mixed, "--head-plan", inputs.mixed]
        words = [bundle.path, bundle.path, *plans, "--results", tmp_path / "kept"]

        done = CliRunner(env={"COLUMNS": "200"}).invoke(
            compare,
            ["--interleave", *map(str, words), *options, "--repeat", "2"],
            catch_exceptions=False,
        )

        assert done.exit_code == 0, done.output
        assert "processes took turns" in done.stdout
        base, head = (read_result(tmp_path / "kept" / f"{side}.json") for side in ("base", "head"))
        assert base.pair_id == head.pair_id != ""
        assert base.run_id != head.run_id
        cells = [f"{name}/onnxruntime/balanced/1/single" for name in ("mixed", "default")]
        assert list(base.cells) == list(head.cells) == cells

    def test_the_order_of_sides_is_reversed_in_every_other_turn(self, bundle: BundleFolder) -> None:
        """Whoever goes second finds warmer caches, so that must happen to both."""
        said: list[str] = []
        grid = Grid(variants=(Variant(name="default"),), backends=("numpy",))
        sides = [Side(folder=bundle.path, grid=grid, label=label) for label in ("base", "head")]

        run_sides(sides, replace(QUICK, repeat=2), progress=said.append)

        assert [text.split(":")[0] for text in said] == ["base", "head", "head", "base"]

    def test_sources_are_measured_in_place_of_what_is_installed(self, bundle: BundleFolder) -> None:
        """A checkout is found by its folder; another folder is refused."""
        root = Path(__file__).resolve().parents[3]
        grid = Grid(variants=(Variant(name="default"),), backends=("numpy",))
        interpreter = Interpreter(sources=root)

        result = run_bench(Side(folder=bundle.path, grid=grid, interpreter=interpreter), QUICK)

        assert BenchResult.from_json(result).cells
        with pytest.raises(ConfigError, match="no device/pocketrec_device"):
            Interpreter(sources=root / "docs")
