# SPDX-License-Identifier: Apache-2.0
"""The benchmark of compressed item tables, on a catalogue of 40 items."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'cloud'")

from benchmarks import codebook_sequence_run
from benchmarks.codebook_sequence_methods import METHODS, product_by_faiss
from benchmarks.codebook_sequence_page import STYLES, page, plot, sheets
from benchmarks.codebook_sequence_run import Settings, Subject, run

from pocketrec.errors import InfeasibleBudgetError
from pocketrec_cloud.backbones.sasrec import SASRecConfig
from pocketrec_cloud.compression.allocation import Budget
from pocketrec_cloud.data.options import read_split
from pocketrec_cloud.training import TrainingConfig, train

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_cloud.training import EpochRecord

NAMES = ("float", "plain-int4", "product", "product-tuned", "co-clusters-int8", "float-tuned")
SETTINGS = Settings(ratios=(4,), methods=NAMES, epochs=1, max_minutes=None, seed=0)


class Nobody:
    """Watches no training."""

    def batch(self, *, epoch: int, done: float, loss: float) -> None:
        """Say nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """120 users who walk through a ring of 40 items, and what an epoch learned of them."""
    folder = tmp_path_factory.mktemp("subject")
    lines = [
        " ".join([str(user), *(str((user + step) % 40 + 1) for step in range(8))])
        for user in range(1, 121)
    ]
    data = folder / "ring.txt"
    data.write_text("\n".join(lines) + "\n")
    split = read_split(data, "auto")
    shape = SASRecConfig(n_items=40, embedding_dim=16, n_heads=2, window=6, dropout=0.0)
    training = TrainingConfig(max_epochs=6, tokens_per_batch=128, learning_rate=1e-2)
    train(split, shape, training, folder=folder / "run", progress=Nobody())
    return Subject(name="ring", data=data, run=folder / "run")


@pytest.fixture(scope="module")
def measured(
    subject: Subject, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """A few methods at a quarter of the bytes, and the file with them."""
    out = tmp_path_factory.mktemp("result") / "result.json"
    return run([subject], SETTINGS, out), out


class TestRecords:
    def test_every_method_has_one(self, measured: tuple[dict[str, Any], Path]) -> None:
        """In the order of methods, and in the file."""
        result, out = measured

        assert [record["method"] for record in result["records"]] == list(NAMES)
        assert json.loads(out.read_text())["records"] == result["records"]

    def test_a_budget_is_kept(self, measured: tuple[dict[str, Any], Path]) -> None:
        """Where there is one; the float table is what it is compared with."""
        records = {record["method"]: record for record in measured[0]["records"]}

        assert records["product"]["ratio"] >= 4
        assert records["co-clusters-int8"]["ratio"] >= 4
        assert records["float"]["ndcg@10_change"] == 0
        assert records["float"]["bytes"] == 41 * 16 * 4

    def test_scores_are_compared_with_the_float_models(
        self, measured: tuple[dict[str, Any], Path]
    ) -> None:
        """The float table's are its own; a finer table's are nearer."""
        records = {record["method"]: record for record in measured[0]["records"]}

        assert records["float"]["divergence"] == pytest.approx(0, abs=1e-6)
        assert 0 < records["plain-int4"]["divergence"] < records["co-clusters-int8"]["divergence"]

    def test_training_was_chosen_on_validation(self, measured: tuple[dict[str, Any], Path]) -> None:
        """It never validates worse than the fit that it began with."""
        records = {record["method"]: record for record in measured[0]["records"]}
        tuned = records["product-tuned"]

        assert tuned["validation_ndcg@10"] >= tuned["fitted_validation_ndcg@10"]
        assert tuned["bytes"] == records["product"]["bytes"]

    def test_what_is_known_is_not_measured_again(
        self,
        subject: Subject,
        measured: tuple[dict[str, Any], Path],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """A second run reads not even the data; one more method is added."""
        result, out = measured
        with monkeypatch.context() as patch:
            patch.delattr(codebook_sequence_run, "read_split")
            again = run([subject], SETTINGS, out)
        copied = tmp_path / "result.json"
        copied.write_bytes(out.read_bytes())
        added = run([subject], replace(SETTINGS, methods=("plain-int8",)), copied)

        assert again["records"] == result["records"]
        assert [r["method"] for r in added["records"]] == [*NAMES, "plain-int8"]


class TestPage:
    def test_the_page_says_what_was_measured(
        self, measured: tuple[dict[str, Any], Path], tmp_path: Path
    ) -> None:
        """Every record is a row, and a budget's winner is bold; the plot lies beside it."""
        pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
        result = measured[0]
        text = page(result, plot(result, tmp_path))
        (sheet,) = sheets(result)

        assert len(sheet.rows) == len(result["records"])
        assert sum("**" in row[0] for row in sheet.rows) == 1
        assert "codebook_sequence.png" in text
        assert (tmp_path / "codebook_sequence.png").stat().st_size > 10_000

    def test_trials_are_shown_apart(self, measured: tuple[dict[str, Any], Path]) -> None:
        """With an interval where there is one."""
        trial = {"dataset": "ring", "what": "longer", "validation_change": -0.03}
        trials = [
            {**trial, "ndcg@10_change": -0.02, "interval": [-0.04, 0.01]},
            {**trial, "ndcg@10_change": None, "interval": []},
        ]
        text = page({**measured[0], "trials": trials}, "picture.png")

        assert "| ring | longer | -3.0 | -2.0 | -4.0 to +1.0 |" in text
        assert "| ring | longer | -3.0 |  |  |" in text

    def test_what_the_command_would_take_is_marked(
        self, measured: tuple[dict[str, Any], Path]
    ) -> None:
        """What diverges least, once all that it tries is known."""
        known = measured[0]["records"]
        product = next(record for record in known if record["method"] == "product")
        others = [
            {**product, "method": method, "divergence": divergence}
            for method, divergence in (
                ("product-int4", 9.0),
                ("residual", 0.0),
                ("residual-int4", 1.0),
            )
        ]
        marked = [
            [row[0] for row in sheet.rows if "†" in row[0]]
            for records in (known, [*known, *others])
            for sheet in sheets({"records": records})
        ]

        assert marked == [[], ["shared rows + product †"]]


class TestFaiss:
    def test_its_bytes_count_its_float_rows(self) -> None:
        """256 rows of 8 numbers, and as many codes an item as fit and divide the columns."""
        pytest.importorskip("faiss", reason="needs the extra 'baselines'")
        rng = np.random.default_rng(0)
        embeddings = rng.normal(size=(1_001, 8)).astype(np.float32)
        budget = Budget(n_items=1_000, embedding_dim=8, max_bytes=256 * 8 * 4 + 3 * 1_001)

        found, n_bytes, n_rows = product_by_faiss(embeddings, budget, seed=0)

        assert (n_bytes, n_rows) == (256 * 8 * 4 + 2 * 1_001, 512)
        assert ((found[1:] - embeddings[1:]) ** 2).mean() < 0.2

    def test_a_budget_below_its_rows_is_refused(self) -> None:
        """Its rows are float32, and 256 of them."""
        pytest.importorskip("faiss", reason="needs the extra 'baselines'")
        budget = Budget(n_items=100, embedding_dim=8, max_bytes=8_000)

        with pytest.raises(InfeasibleBudgetError):
            product_by_faiss(np.ones((101, 8), np.float32), budget, seed=0)


def test_methods_have_names_of_their_own() -> None:
    """Records are known by them."""
    names = [method.name for method in METHODS]

    assert len(set(names)) == len(names)


def test_every_method_is_drawn_in_a_way_of_its_own() -> None:
    """No method is left out of the picture, and no two look alike."""
    assert set(STYLES) == {method.name for method in METHODS}
    assert len(set(STYLES.values())) == len(STYLES)
