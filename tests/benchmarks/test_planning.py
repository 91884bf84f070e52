# SPDX-License-Identifier: Apache-2.0
"""The benchmark of planning measures what it says, and shows what it measured."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks import planning
from benchmarks.planning_page import page
from benchmarks.planning_samples import make_sensitivity, make_users, seeded_planner
from benchmarks.processes import cpu_seconds
from benchmarks.seeded_bundle import write_seeded_bundle
from benchmarks.shapes import Shape
from click.testing import CliRunner

from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.personal_fit import check_planner_fits
from pocketrec_quantization.planners import sensitivity_from_bytes

LAYERS = (LayerShape("a", 8, 8),)
RESULT: dict[str, Any] = {
    "command": "python -m benchmarks.planning",
    "date": "2026-01-01T00:00:00+00:00",
    "settings": {"rounds": 5, "seconds": 5.0, "users": 2000},
    "environment": {
        **dict.fromkeys(("pocketrec", "commit", "python", "numpy", "torch", "cpu"), "x"),
        "cores": 2,
        "load": 0.5,
    },
    "users_per_s": 30_000.0,
    "rpc_per_s": 700.0,
    "targets": {
        "users_per_s": {"wanted": 20_000.0, "measured": 30_000.0, "is_met": True},
        "rpc_per_s": {"wanted": 1_500.0, "measured": 700.0, "is_met": False},
    },
    "rpc": [
        {
            "clients": 16,
            "rpc_per_s": 700.0,
            "p50_ms": 20.0,
            "p99_ms": 40.0,
            "server_cores": 0.98,
            "clients_cores": 0.28,
            "up_bytes": 178,
            "down_bytes": 610,
        }
    ],
    "engines": [
        {"engine": "local", "users_per_s": 20_000.0, "seconds": 0.1, "bytes_per_user": 107.0},
        {"engine": "ray", "skipped": "the extra 'ray' is not installed"},
    ],
    "alternative": {
        "fine_tuned_users_per_s": 150.0,
        "int8_bytes": 52_224,
        "float32_bytes": 196_608,
        "plan_payload_bytes": 192,
        "plan_bytes": 610.0,
    },
}


class TestSamples:
    """What is measured with."""

    def test_a_planner_and_its_users_fit(self) -> None:
        """And their plans differ."""
        planner = seeded_planner(LAYERS, bytes(32), embedding_dim=4)

        codes = planner.plan_bits(make_users(20, 4), 3.0)

        assert len({row.tobytes() for row in codes}) > 1

    def test_a_seeded_bundle_can_be_published_with_the_planner(self, tmp_path: Path) -> None:
        """It brings the extractor that makes user embeddings, and devices accept it."""
        shape = Shape(d=16, window=4, blocks=1, n_items=100)
        bundle = write_seeded_bundle(tmp_path, shape, has_extractor=True)
        planner = seeded_planner(bundle.manifest.layers, bundle.model_digest, embedding_dim=16)

        bundle.verify()

        check_planner_fits(planner, bundle.manifest, bundle.model_digest)

    def test_losses_fall_with_the_width(self) -> None:
        """As a publication expects."""
        losses = sensitivity_from_bytes(make_sensitivity(LAYERS))

        assert (losses[:, :-1] >= losses[:, 1:]).all()


def test_cpu_time_of_a_process_is_read() -> None:
    """Of all its threads; it agrees with what the process itself knows, to a few ticks."""
    before = time.process_time()
    found = cpu_seconds(os.getpid())

    assert before - 0.1 <= found <= time.process_time() + 0.1


class TestPage:
    """How a run is shown."""

    def test_a_target_that_is_missed_is_said_to_be(self) -> None:
        """Beside the one that is met."""
        text = page(RESULT)

        assert "| plans made offline, users/s | yes | 20,000 | 30,000 |" in text
        assert "| GetPlan, calls/s | MISSED | 1,500 | 700 |" in text
        assert "| ray | the extra 'ray' is not installed |" in text
        assert "the server takes 1.40 ms of CPU per call and the clients 0.40 ms" in text
        assert "the server is the bound" in text
        assert "NumPy on these cores is the bound" not in text
        assert "trial run" not in text

    def test_a_short_run_is_called_a_trial(self) -> None:
        """So that nobody quotes it."""
        assert "trial run" in page({**RESULT, "settings": {**RESULT["settings"], "rounds": 1}})

    def test_it_can_be_drawn_again(self, tmp_path: Path) -> None:
        """From what was written before, without measuring."""
        (tmp_path / "planning.json").write_text(json.dumps(RESULT))
        words = ["--from", str(tmp_path / "planning.json"), "--report", str(tmp_path / "page.md")]

        done = CliRunner().invoke(planning.main, words)

        assert done.exit_code == 0, done.output
        assert (tmp_path / "page.md").read_text() == page(RESULT)
        assert "MISSED" in done.output


@pytest.mark.slow
def test_a_short_run_measures_everything(tmp_path: Path) -> None:
    """Real processes, a real server and a real socket."""
    out = tmp_path / "planning.json"
    words = ["--rounds", "1", "--seconds", "0.2", "--clients", "1,4", "--users", "200"]

    done = CliRunner().invoke(
        planning.main, [*words, "--shape", "16x10x1", "--json", str(out)], catch_exceptions=False
    )

    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["users_per_s"] > 0
    assert [row["clients"] for row in found["rpc"]] == [1, 4]
    assert all(row["n"] > 0 for row in found["rpc"])
    assert all(row["server_cores"] > 0 and row["clients_cores"] > 0 for row in found["rpc"])
    assert found["engines"][0]["users_per_s"] > 0
    assert found["alternative"]["int8_bytes"] > 30 * found["alternative"]["plan_payload_bytes"]
