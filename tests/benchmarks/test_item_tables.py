# SPDX-License-Identifier: Apache-2.0
"""One small run of the benchmark of item tables, and what it concludes and shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from benchmarks.item_table_graphs import OPERATORS, GraphScorer, can_express
from benchmarks.item_tables import main
from benchmarks.item_tables_page import page, sheet
from benchmarks.item_tables_run import KINDS, NUMPY, TableSettings, make_table
from click.testing import CliRunner

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

WAYS = {
    "int8": [*OPERATORS],
    "int4": ["GatherBlockQuantized"],
    "shared rows, int8": [*OPERATORS],
    "product, int8": ["Gather"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_score_as_the_table(kind: str) -> None:
    """Whatever looks the rows up, the scores are those of the table."""
    table, rng = make_table(kind, 400, 64, seed=0), np.random.default_rng(1)
    indices, h = rng.integers(0, 401, 30), rng.standard_normal(64, np.float32)
    expected = table.gather(indices).scores(h)

    for operator in WAYS[kind]:
        scores = GraphScorer(table, operator, 30).scores(indices, h)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-3)
    assert [operator for operator in OPERATORS if can_express(table, operator)] == WAYS[kind]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two rounds over a small catalogue."""
    folder: Path = tmp_path_factory.mktemp("item-tables")
    words = ["--items", "300", "--rounds", "2", "--json", str(folder / "run.json")]
    done = CliRunner().invoke(main, [*words, "--report", str(folder / "run.md")])
    assert done.exit_code == 0, done.output
    assert "## Scoring" in (folder / "run.md").read_text()
    document: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return document


class TestRun:
    def test_every_way_that_there_is_has_a_record(self, result: dict[str, Any]) -> None:
        """NumPy and the operators, on each table."""
        found = [(record["kind"], record["method"]) for record in result["records"]]

        assert found == [(kind, way) for kind in KINDS for way in (NUMPY, *WAYS[kind])]
        assert all(record["p50_us"] > 0 for record in result["records"])
        assert {r["ratio"] for r in result["records"] if r["method"] == NUMPY} == {1.0}

    def test_the_page_says_who_wins(self, result: dict[str, Any]) -> None:
        """By the ratios, in either direction."""
        for ratio, words in ((1.5, "NumPy is the fastest on every table"), (0.5, "is faster in")):
            records = [
                {**record, "ratio": 1.0 if record["method"] == NUMPY else ratio}
                for record in result["records"]
            ]
            assert words in page({**result, "records": records})
        assert all(len(row) == len(sheet(result).columns) for row in sheet(result).rows)


@pytest.mark.parametrize("changes", [{"items": ()}, {"rounds": 0}, {"embedding_dim": 60}])
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    """There is something to measure, and columns for sixteen codebooks."""
    with pytest.raises(ConfigError, match="expected"):
        TableSettings(**changes)
