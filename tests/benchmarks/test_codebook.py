# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.codebook import main
from benchmarks.codebook_clusters import (
    frequency_hash,
    k_means,
    product_quantize,
    renumber,
    residual_k_means,
    secondary_labels,
)
from benchmarks.codebook_plots import _shares
from benchmarks.codebook_summary import best_within, front, smallest_reaching, summarise
from click.testing import CliRunner
from tests.cloud.collaborative.graphs import blocks, matrix

from pocketrec_cloud.collaborative import CodebookTable


def record(method: str, bits: int, seed: int, n_bytes: int, recall: float) -> dict[str, object]:
    """Return a record as in a result file."""
    metrics = {f"{name}@{k}": recall for name in ("recall", "ndcg") for k in (10, 20, 50)}
    names = {"suite": "lightgcn", "dataset": "d", "method": method, "seed": seed, "row_bits": bits}
    facts = {"rows": 10, "bytes": n_bytes, "sizes": {"users": {"1": 6, "2": 2}}}
    return names | facts | metrics | {"epochs": 10, "seconds": 1.0}


class TestClusters:
    def test_second_label_is_the_best_other_one(self) -> None:
        """A user of label 0 with two edges to label 2 and one to label 1 gets 2."""
        train = matrix([(0, 0), (0, 1), (0, 2), (1, 1), (2, 2)], (3, 3))
        users, items = np.array([0, 1, 2]), np.array([2, 2, 1])

        found = secondary_labels(train, users, items, balance=0.0)

        assert found.tolist() == [2, 2, 1]

    def test_a_large_volume_counts_against_a_label(self) -> None:
        """With one edge each, the label of lesser volume is taken."""
        train = matrix([(0, 0), (0, 1), (1, 0), (2, 1), (3, 0)], (4, 2))
        users, items = np.array([3, 1, 2, 1]), np.array([1, 2])

        assert secondary_labels(train, users, items, balance=0.0)[0] == 1
        assert secondary_labels(train, users, items, balance=0.1)[0] == 2

    def test_labels_without_rows_are_no_candidates(self) -> None:
        """A label that no user has owns no user row, so that the own one stays."""
        train = matrix([(0, 0), (1, 0)], (2, 1))

        found = secondary_labels(train, np.array([0, 0]), np.array([1]), balance=0.0)

        assert found.tolist() == [0, 0]

    def test_renumbering_keeps_second_labels_beside_first_ones(self) -> None:
        """The same old number becomes the same new one."""
        first, second = renumber(np.array([7, 3, 7]), np.array([3, 7, 7]))

        assert (first.tolist(), second.tolist()) == ([1, 0, 1], [0, 1, 1])

    def test_the_most_frequent_have_rows_of_their_own(self) -> None:
        """Half of four rows go to the two of largest degree, the others share the rest."""
        found = frequency_hash(np.array([1, 9, 2, 8, 1]), 4, np.random.default_rng(0))

        assert found[[1, 3]].tolist() == [0, 1]
        assert set(found[[0, 2, 4]]) <= {2, 3}


class TestVectors:
    VECTORS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)

    def test_means_are_those_of_members(self) -> None:
        """With as many rows as vectors, each is its own mean."""
        pytest.importorskip("faiss")

        labels, means = k_means(self.VECTORS, 60, seed=0)

        assert np.allclose(means[labels], self.VECTORS, atol=1e-5)

    def test_parts_are_put_together_again(self) -> None:
        """A product of as many rows as vectors gives the vectors back."""
        pytest.importorskip("faiss")

        assignment, values = product_quantize(self.VECTORS, 2, n_rows=60, seed=0)
        table = CodebookTable(assignment, init_std=0.1, seed=0, warm=values)

        assert np.allclose(table().detach().numpy(), self.VECTORS, atol=1e-5)

    def test_a_second_step_leaves_less(self) -> None:
        """The sum of two codebooks is nearer than the first alone."""
        pytest.importorskip("faiss")

        assignment, values = residual_k_means(self.VECTORS, (8, 8), seed=0)
        table = CodebookTable(assignment, init_std=0.1, seed=0, warm=values)

        error = np.square(table().detach().numpy() - self.VECTORS).sum()
        first = np.square(values[0][assignment.rows[:, 0]] - self.VECTORS).sum()
        assert error < 0.8 * first


class TestSummary:
    RECORDS = (
        record("full", 32, 0, 100, 0.10),
        record("full", 32, 1, 100, 0.12),
        record("full", 4, 0, 20, 0.10),
        record("hash", 32, 0, 50, 0.05),
    )

    def test_seeds_are_averaged(self) -> None:
        """Two seeds of one method and width make one row."""
        rows = summarise(self.RECORDS, ("d", "lightgcn"))

        assert [(row.method, row.bits, row.seeds) for row in rows] == [
            ("full", 32, 2),
            ("full", 4, 1),
            ("hash", 32, 1),
        ]
        assert rows[0].values["recall@20"] == pytest.approx(0.11)
        assert rows[0].largest == pytest.approx(0.2)

    def test_the_front_holds_what_nothing_smaller_beats(self) -> None:
        """Hashing takes more bytes than int4 and finds less."""
        rows = summarise(self.RECORDS, ("d", "lightgcn"))

        assert [row.n_bytes for row in front(rows, "recall@20")] == [20, 100]

    def test_the_best_within_a_budget(self) -> None:
        """60 bytes hold int4; 10 hold nothing."""
        rows = summarise(self.RECORDS, ("d", "lightgcn"))

        best = best_within(rows, 60, "recall@20")
        assert best is not None
        assert best.n_bytes == 20
        assert best_within(rows, 10, "recall@20") is None

    def test_the_smallest_that_reaches_a_recall(self) -> None:
        """What hashing finds in 50 bytes, int4 finds in 20; nothing finds everything."""
        rows = summarise(self.RECORDS, ("d", "lightgcn"))

        least = smallest_reaching(rows, 0.05, "recall@20")
        assert least is not None
        assert least.n_bytes == 20
        assert smallest_reaching(rows, 1.0, "recall@20") is None

    def test_shares_of_sizes(self) -> None:
        """Six rows of one and two of two hold ten: all in rows of at least 1, 40 % of 2."""
        assert _shares({"1": 6, "2": 2}) == ([1, 2], [100.0, 40.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small split."""
    made = tmp_path_factory.mktemp("split-of-blocks")
    split = blocks(60, 48)
    for name, part in (("train", split.train), ("val", split.validation), ("test", split.test)):
        lines = [f"{u} {' '.join(map(str, part[u].indices))}" for u in range(split.n_users)]
        (made / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return made


class TestRun:
    def test_a_run_is_written_and_gone_on_with(self, folder: Path, tmp_path: Path) -> None:
        """Records have every key, an earlier one is kept, and the page shows both."""
        pytest.importorskip("faiss")
        pytest.importorskip("matplotlib")
        path, page = tmp_path / "codebook.json", tmp_path / "codebook.md"
        options = ["--data", str(folder), "--rows", "24", "--seeds", "1", "--max-epochs", "5"]
        options += ["--work", str(tmp_path / "work"), "--json", str(path), "--report", str(page)]

        first = CliRunner().invoke(main, [*options, "--methods", "full,hash"])
        assert first.exit_code == 0, first.output
        before = json.loads(path.read_text())["records"]
        second = CliRunner().invoke(main, [*options, "--methods", "hash,ours-ui,k-means,full"])
        assert second.exit_code == 0, second.output

        result = json.loads(path.read_text())
        assert result["records"][: len(before)] == before
        found = {(r["method"], r["row_bits"]): r for r in result["records"]}
        assert {(m, 4) for m in ("full", "hash", "ours-ui", "k-means")} <= set(found)
        assert found["full", 32]["bytes"] == (60 + 48) * 64 * 4
        assert found["ours-ui", 32]["rows"] <= 24
        names = {f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20, 50)}
        assert names | {"validation_recall@20", "seconds"} <= set(found["hash", 8])
        assert {(t["method"], t["rival"]) for t in result["tests"]} == {
            ("ours-ui", "full"),
            ("ours-ui", "hash"),
        }
        text = page.read_text()
        assert "random hash" in text
        assert (tmp_path / "codebook-recall-against-bytes.png").exists()

    def test_unknown_methods_are_named(self, folder: Path) -> None:
        """What there is instead is said."""
        found = CliRunner().invoke(main, ["--data", str(folder), "--methods", "magic"])

        assert found.exit_code != 0
        assert "expected some of full" in found.output
