# SPDX-License-Identifier: Apache-2.0
"""The examples run as their pages say, on a small bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pocketrec_cloud.bundling import FLOAT_TWIN

if TYPE_CHECKING:
    from tests.cloud.conftest import Built

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MAX_LINES = 80


def run_example(name: str, *arguments: str | Path) -> list[str]:
    """Run an example's script as a user would, and return the lines it prints."""
    script = EXAMPLES / name / "main.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_embed_runtime_ranks_anew_after_every_event(tiny_build: Built) -> None:
    """Without events the order stays as it came; with them, scores appear and change."""
    lines = run_example("embed_runtime", tiny_build.bundle.path)

    rankings = [line.split(": ", 1)[1] for line in lines if line.startswith("after ")]
    assert len(rankings) == 4
    assert rankings[0].count(" 0.00") == 3
    assert len(set(rankings)) == 4
    assert sum("computed in float32" in line for line in lines) == 12


def test_push_plan_installs_a_richer_plan_second(tiny_build: Built) -> None:
    """Asking for more bits brings a plan of a higher version with more effective bits."""
    first, second = run_example("push_plan", tiny_build.folder)

    assert "plan 1 by 'global'" in first
    assert "plan 2 by 'global'" in second
    bits = [float(line.split(", ")[1].split()[0]) for line in (first, second)]
    assert bits[1] == pytest.approx(bits[0] + 1, abs=0.1)


def test_benchmark_bundle_compares_plans(tiny_build: Built) -> None:
    """The default plan is the unit of the comparison, and every row says its size."""
    lines = run_example("benchmark_bundle", tiny_build.bundle.path, "--runs", "3")

    assert len(lines) == 1
    assert lines[0].startswith("default: ")
    assert lines[0].endswith("1.00 times the default's")


def test_add_runtime_measures_a_runtime_of_its_own(tiny_build: Built) -> None:
    """The runtime in the script's own file stands beside pocketrec, which is the unit."""
    twin = tiny_build.folder / FLOAT_TWIN

    lines = run_example("add_runtime", tiny_build.bundle.path, twin, "--runs", "3")

    assert lines[0] == "pocketrec: 1.00 times pocketrec's observe + rerank"
    assert lines[1].startswith("plain-numpy: ")


@pytest.mark.parametrize(
    "folder", ["add_runtime", "benchmark_bundle", "embed_runtime", "push_plan"]
)
def test_example_is_short_and_has_a_page(folder: str) -> None:
    """Every example is one script below 80 lines with a page that shows its command."""
    lines = (EXAMPLES / folder / "main.py").read_text().splitlines()
    page = (EXAMPLES / folder / "README.md").read_text()

    assert len(lines) < MAX_LINES
    assert f"examples/{folder}/main.py" in page
