# SPDX-License-Identifier: Apache-2.0
"""The benchmark of co-clustering measures what it says, and shows what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import coclustering
from benchmarks.coclustering_graphs import power_law_graph
from benchmarks.coclustering_page import page
from benchmarks.coclustering_run import (
    LOUVAIN,
    MULTILEVEL,
    PROPAGATION,
    CoclusteringSettings,
    load_training_graph,
    summarise,
)
from benchmarks.coclustering_worker import cluster, gini
from click.testing import CliRunner
from scipy import sparse

from pocketrec.errors import ConfigError

SETTINGS = CoclusteringSettings(edges=(1000,))


def record(dataset: str, method: str, **fields: Any) -> dict[str, Any]:
    """Return what one method found."""
    return {
        "dataset": dataset,
        "method": method,
        "n_users": 10,
        "n_items": 20,
        "n_edges": 1000,
        "resolution": 200.0,
        "rows": 12,
        "objective": 50.0,
        **dict.fromkeys(("user_gini", "item_gini"), 0.25),
        **dict.fromkeys(("user_largest_share", "item_largest_share"), 0.125),
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "peak_bytes": 2**30,
        "peak_bytes_beyond_graph": 2**29,
        **fields,
    }


RECORDS = [
    record("shop", LOUVAIN, seconds=3.0),
    record("shop", PROPAGATION, seconds=0.5, objective=-1.0),
    record("shop", MULTILEVEL, objective=60.0),
    record("power law, 100,000,000 edges", MULTILEVEL, n_edges=10**8, seconds=720.0),
]
RESULT = summarise(RECORDS, SETTINGS, {"first": 12.0, "later": 1.0})


class TestGraphs:
    def test_a_generated_graph_is_one_of_interactions(self) -> None:
        """It has about the edges asked for, each once, and some items far above the others."""
        matrix = power_law_graph(20_000, seed=1)

        counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
        assert 17_000 < matrix.nnz < 23_000
        assert matrix.has_canonical_format
        assert counts.max() > 10 * np.median(counts)
        assert (power_law_graph(20_000, seed=1) != matrix).nnz == 0

    def test_a_folder_is_united_and_split(self, tmp_path: Path) -> None:
        """Of the union of both files, 80 % are clustered; a file is taken whole."""
        (tmp_path / "train.txt").write_text("0 0 1 2\n1 1 2\n2 3\n", encoding="utf-8")
        (tmp_path / "test.txt").write_text("0 3\n1 0 3\n2 0\n", encoding="utf-8")

        both, one = (
            load_training_graph(path, seed=0) for path in (tmp_path, tmp_path / "train.txt")
        )

        assert (both.shape, both.nnz) == ((3, 4), 8)
        assert (one.shape, one.nnz) == ((3, 4), 6)


class TestWorker:
    @pytest.mark.parametrize(
        ("counts", "expected"), [([3, 3, 3], 0.0), ([0, 0, 8], 2 / 3), ([1, 3], 0.25)]
    )
    def test_gini_is_that_of_the_definition(self, counts: list[int], expected: float) -> None:
        """Equal sizes have 0; one that has everything has 1 - 1 / K."""
        assert gini(np.array(counts)) == pytest.approx(expected)

    @pytest.mark.parametrize("options", [{"resolution": 2.0}, {"preset": "paper", "n_rows": 30}])
    def test_a_job_is_done(self, options: dict[str, Any], tmp_path: Path) -> None:
        """Rows, shares and objective are those of the graph in the file."""
        matrix = sparse.csr_matrix((np.random.default_rng(0).random((30, 20)) < 0.2) * 1.0)
        sparse.save_npz(tmp_path / "graph.npz", matrix)
        job = {"file": str(tmp_path / "graph.npz"), "solver": "ours", "compared_at": 2.0}

        found = cluster({**job, "options": options})

        assert found["n_edges"] == matrix.nnz
        assert found["rows"] == found["user_rows"] + found["item_rows"] <= 50
        assert 1 / 30 <= found["user_largest_share"] <= 1
        assert found["peak_bytes"] > 2**20
        if "preset" not in options:
            assert found["objective"] == pytest.approx(found["own_objective"], rel=1e-5)


class TestResult:
    def test_speedups_are_against_louvain_on_the_same_graph(self) -> None:
        """The first graph's propagation is the figure that counts."""
        assert RESULT["speedup_vs_louvain"] == 6.0
        assert RESULT["speedups_vs_louvain"] == {"shop": {PROPAGATION: 6.0, MULTILEVEL: 3.0}}

    def test_nothing_to_measure_is_refused(self) -> None:
        """Neither data nor edges is no benchmark."""
        with pytest.raises(ConfigError, match="got neither"):
            CoclusteringSettings()

    def test_the_page_says_which_targets_are_missed(self) -> None:
        """Beside those that are met."""
        text = page(RESULT, ["a-picture.png"])

        equal = "propagation at equal rows, times as fast as Louvain"
        assert f"| shop: {equal} | yes | 4 | 6.0 |" in text
        assert "| shop: multilevel against Louvain, objective | yes | 50.00 | 60.00 |" in text
        assert "| 100,000,000 edges, multilevel: minutes | MISSED | 10 | 12.0 |" in text
        assert "| 100,000,000 edges, multilevel: GiB | yes | 16 | 1.0 |" in text
        assert "![a picture](a-picture.png)" in text

    def test_it_can_be_drawn_again(self, tmp_path: Path) -> None:
        """From what was written before, without measuring, picture included."""
        (tmp_path / "found.json").write_text(json.dumps(RESULT))
        words = ["--from", str(tmp_path / "found.json"), "--report", str(tmp_path / "page.md")]

        done = CliRunner().invoke(coclustering.main, words)

        assert done.exit_code == 0, done.output
        assert "# Co-clustering" in (tmp_path / "page.md").read_text()
        assert len(list(tmp_path.glob("*.png"))) == 1
