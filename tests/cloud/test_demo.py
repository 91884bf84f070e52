# SPDX-License-Identifier: Apache-2.0
"""The demo: the main job in separate processes over a real socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cloud.test_device_alone import rank_alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketrec_cloud.data.split import LeaveOneOut

ROWS = ["float32", "uniform-8", "uniform-4", "uniform-2", "global"]


def run_demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``pocketrec demo`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pocketrec", "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_foreign_work_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder with somebody's files is refused, and keeps them."""
    (tmp_path / "thesis.txt").write_text("years of work")

    done = run_demo("--work", tmp_path)

    assert done.returncode == 2
    assert "--work" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_main_job_runs_end_to_end_twice(
    tiny_split: LeaveOneOut, make_installation: Callable[[str], Path], tmp_path: Path
) -> None:
    """All steps work, a second run starts over, and its store serves a device without torch."""
    dataset = tiny_split.dataset
    data, work, answer = tmp_path / "events.txt", tmp_path / "work", tmp_path / "out.json"
    lines = (
        " ".join([dataset.user_ids[u], *(dataset.item_ids[i - 1] for i in dataset.sequence(u))])
        for u in range(dataset.n_users)
    )
    data.write_text("\n".join(lines))

    for _ in range(2):
        done = run_demo("--data", data, "--work", work, "--json", answer)
        assert done.returncode == 0, done.stderr

    result = json.loads(answer.read_text())
    quality = {record["variant"]: record["quality"]["ndcg@10"] for record in result["records"]}
    assert list(quality) == ROWS
    assert quality["global"] > 0.5 * quality["float32"]
    assert len(result["reranked"]["items"]) == 5
    ids = list(dataset.item_ids)
    alone = rank_alone(make_installation("device"), work / "device", ids[:3], ids[3:9])
    assert len(alone["items"]) == 3
    assert not alone["has_torch"]
