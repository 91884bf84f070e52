# SPDX-License-Identifier: Apache-2.0
"""Compressing a trained model, as the command does and as bundles are built of it."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.cloud.conftest import Watcher
from tests.commands import run_command, run_command_json

from pocketrec.cli import ExitCode
from pocketrec.errors import ConfigError
from pocketrec_cloud.backbones.caser import CaserConfig
from pocketrec_cloud.backbones.registry import make_backbone
from pocketrec_cloud.bundling import FLOAT_TWIN, BuildConfig, build_bundle, freeze_backbone
from pocketrec_cloud.checkpoint import load_backbone
from pocketrec_cloud.compression.allocation import Budget, float_bytes, lay_out, rows
from pocketrec_cloud.compression.compressing import MODEL, Compression, compress, with_table
from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.runs import read_run
from pocketrec_cloud.evaluation import SequenceModel, popularity_scorer, rank_all
from pocketrec_cloud.training import TrainingConfig, train
from pocketrec_quantization.float_twin import FloatTwin

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cloud.conftest import Trained

    from pocketrec_cloud.compression.compressing import Compressed
    from pocketrec_quantization.bundle import BundleFolder

pytestmark = pytest.mark.usefixtures("one_thread")

COMMANDS = {
    "bundle.build": "pocketrec_cloud.cli:bundle_build",
    "compress": "pocketrec_cloud.compression.cli:compress_run",
}
run = partial(run_command, COMMANDS)
run_json = partial(run_command_json, COMMANDS)
TRAINING = TrainingConfig(
    max_epochs=3, evaluate_every=1, tokens_per_batch=256, learning_rate=3e-3, n_negatives=60
)
PRODUCT = lay_out("product", Budget(n_items=60, embedding_dim=16, max_bytes=700), 8)


@pytest.fixture(scope="module")
def frozen(tiny_training: Trained, tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    """A product whose rows were trained, and nothing else."""
    how = Compression(layout=PRODUCT, trains_backbone=False, training=TRAINING)
    return compress(
        tiny_training.result.model,
        tiny_training.split,
        how,
        folder=tmp_path_factory.mktemp("frozen") / "run",
        progress=Watcher(),
    )


@pytest.fixture(scope="module")
def bundle(
    frozen: Compressed, tiny_training: Trained, tmp_path_factory: pytest.TempPathFactory
) -> BundleFolder:
    """Its bundle."""
    return build_bundle(
        frozen.model,
        tiny_training.split.dataset.item_ids,
        tiny_training.split,
        out=tmp_path_factory.mktemp("bundle"),
        config=BuildConfig(model_name="tiny", version=4, created_at_s=1_700_000_000),
        facts={},
    )


class TestCompress:
    def test_a_frozen_backbone_keeps_its_plans(
        self, frozen: Compressed, tiny_training: Trained
    ) -> None:
        """The frozen part is the same, byte for byte; the table alone was trained."""
        before = tiny_training.result.model

        assert freeze_backbone(frozen.model).to_bytes() == freeze_backbone(before).to_bytes()
        assert frozen.best_epoch > 0

    def test_training_wins_back_what_the_fit_lost(
        self, frozen: Compressed, tiny_training: Trained
    ) -> None:
        """The model kept is the best one that validated, and far from chance."""
        split = tiny_training.split
        scorer = SequenceModel(frozen.model, frozen.model.config.window)
        found = rank_all(scorer, split, stage="validation").mean("ndcg", 10)
        popular = rank_all(popularity_scorer(split), split, stage="validation").mean("ndcg", 10)

        best = max(record.validation_ndcg10 or 0 for record in frozen.history)
        assert found == pytest.approx(best)
        assert found > frozen.fitted_ndcg10
        assert found > 2 * popular

    def test_the_trained_model_is_left_alone(self, tiny_training: Trained) -> None:
        """It still has a row for each item, and every weight can learn."""
        model = tiny_training.result.model

        assert not isinstance(model.item_embedding, CodebookEmbedding)
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_a_backbone_may_learn_along(self, tiny_training: Trained, tmp_path: Path) -> None:
        """Its weights differ afterwards."""
        before = tiny_training.result.model
        how = Compression(layout=PRODUCT, trains_backbone=True, training=TRAINING)
        found = compress(
            before, tiny_training.split, how, folder=tmp_path / "run", progress=Watcher()
        )

        assert freeze_backbone(found.model).digest != freeze_backbone(before).digest

    def test_a_fit_that_training_spoils_is_kept(
        self, tiny_training: Trained, tmp_path: Path, watcher: Watcher
    ) -> None:
        """Steps far too large; the file holds the fitted table all the same."""
        layout = rows(60, 16, 8)
        spoilt = TrainingConfig(
            max_epochs=1, evaluate_every=1, tokens_per_batch=256, learning_rate=9.0
        )
        how = Compression(layout=layout, training=spoilt)
        found = compress(
            tiny_training.result.model, tiny_training.split, how, folder=tmp_path, progress=watcher
        )
        read, _, header = load_backbone(tmp_path / MODEL)

        assert (found.best_epoch, header["epoch"]) == (0, 0)
        assert header["ndcg@10"] == found.fitted_ndcg10
        assert read.item_embedding.weight.equal(found.model.item_embedding.weight)

    def test_a_run_is_never_overwritten(self, tiny_training: Trained, watcher: Watcher) -> None:
        """The folder that it came from is named."""
        how = Compression(layout=PRODUCT)

        with pytest.raises(ConfigError, match="another folder"):
            compress(
                tiny_training.result.model,
                tiny_training.split,
                how,
                folder=tiny_training.folder,
                progress=watcher,
            )

    def test_codebooks_are_not_compressed_again(
        self, frozen: Compressed, tiny_training: Trained, tmp_path: Path, watcher: Watcher
    ) -> None:
        """What they were made from is."""
        with pytest.raises(ConfigError, match="codebooks"):
            compress(
                frozen.model,
                tiny_training.split,
                Compression(layout=PRODUCT),
                folder=tmp_path,
                progress=watcher,
            )

    def test_a_caser_is_trained_with_codebooks_from_scratch(
        self, tiny_training: Trained, tmp_path: Path, watcher: Watcher
    ) -> None:
        """Nothing was trained before; a resumed run takes the same course."""
        shape = CaserConfig(n_items=60, embedding_dim=16, window=4, max_height=2, n_horizontal=2)
        rng = np.random.default_rng(0)
        numbers = np.vstack([np.zeros((1, 16), int), rng.integers(1, 8, (60, 16))])
        books = lay_out("product", Budget(n_items=60, embedding_dim=16, max_bytes=1_300), 8)
        numbers = numbers[:, : len(books.codebooks)]
        starts = [0.1 * rng.normal(size=(book.n_rows, book.width)) for book in books.codebooks]
        for each in starts:
            each[0] = 0
        table = CodebookEmbedding(books, numbers, starts)
        split = tiny_training.split
        model = with_table(make_backbone(shape), table)

        result = train(split, model, TRAINING, folder=tmp_path, progress=watcher)

        assert isinstance(result.model.item_embedding, CodebookEmbedding)
        assert result.history[-1].loss < result.history[0].loss
        with pytest.raises(ConfigError, match="resume"):
            train(split, shape, TRAINING, folder=tmp_path, progress=watcher, resume=True)


class TestBundle:
    def test_the_bundle_holds_the_codebooks(self, frozen: Compressed, bundle: BundleFolder) -> None:
        """Looked up as training saw them, times the scale of inputs, which is 4 at D = 16."""
        items = bundle.read_items()
        found = items.embed(np.arange(61))

        assert len(items.codebooks) == len(PRODUCT.codebooks)
        assert items.embedding_bytes == PRODUCT.n_bytes(60)
        assert np.array_equal(found, 4 * frozen.model.item_embedding.weight.detach().numpy())

    def test_the_float_control_has_the_same_items(self, bundle: BundleFolder) -> None:
        """It differs by the precision of the coded matrices alone."""
        twin = FloatTwin.from_bytes((bundle.path.parent / FLOAT_TWIN).read_bytes())

        assert np.array_equal(twin.item_embeddings, bundle.read_items().embed(np.arange(61)))

    def test_the_frozen_part_is_the_float_models(
        self, bundle: BundleFolder, tiny_training: Trained
    ) -> None:
        """A plan for one is a plan for the other."""
        expected = freeze_backbone(tiny_training.result.model).digest

        assert bundle.read_frozen().digest == expected


@pytest.fixture(scope="module")
def compressed(
    tiny_training: Trained, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """What the command reports at a quarter of the bytes, and the folder it leaves."""
    out = tmp_path_factory.mktemp("command") / "compressed"
    where = ("--data", tiny_file, "--run", tiny_training.folder, "--out", out)
    options = ("--ratio", 4, "--layout", "product", "--epochs", 1, "--frozen-backbone")
    return run_json("compress", *where, *options, "--threads", 1), out


class TestCommand:
    def test_the_record_tells_bytes_and_quality(
        self, compressed: tuple[dict[str, Any], Path]
    ) -> None:
        """Both before and after, with the change's interval; it lies in the folder too."""
        record, out = compressed
        change = record["test"]["ndcg@10_change"]

        assert record["bytes_before"] == float_bytes(60, 16)
        assert record["bytes"] <= record["bytes_before"] / 4 <= 2 * record["bytes"]
        assert change["interval"][0] <= change["mean"] <= change["interval"][1]
        assert (record["backbone"], record["epochs"]) == ("frozen", 1)
        assert json.loads((out / "compression.json").read_text()) == record

    def test_the_folder_is_a_run_to_build_of(
        self, compressed: tuple[dict[str, Any], Path], tiny_file: Path, tmp_path: Path
    ) -> None:
        """`bundle build` takes it as it takes a training."""
        record, out = compressed
        built = run_json(
            *("bundle.build", "--data", tiny_file, "--checkpoint", out / MODEL),
            *("--out", tmp_path / "bundle"),
        )

        assert built["parts"]["items"] >= record["bytes"]

    def test_rows_may_be_asked_for(
        self, tiny_training: Trained, tiny_file: Path, tmp_path: Path
    ) -> None:
        """Twelve, of four bits, shared; without training the table is drawn for people."""
        where = ("--data", tiny_file, "--run", tiny_training.folder, "--out", tmp_path / "out")
        result = run("compress", *where, "--rows", 12, "--row-bits", 4, "--epochs", 0)
        table = read_run(tmp_path / "out").model.item_embedding

        assert result.exit_code == ExitCode.OK, result.stderr
        assert "NDCG@10, test" in result.stdout
        assert isinstance(table, CodebookEmbedding)
        (book,) = table.layout.codebooks
        assert (book.n_rows, book.bits) == (13, 4)

    def test_what_scores_most_like_the_float_model_is_taken(
        self, tiny_training: Trained, tiny_file: Path, tmp_path: Path
    ) -> None:
        """Of all that fit; without training, the table is that candidate's, or one as near."""
        where = ("--data", tiny_file, "--run", tiny_training.folder, "--out", tmp_path / "out")
        record = run_json("compress", *where, "--ratio", 3, "--epochs", 0)
        least = min(each["divergence"] for each in record["candidates"])
        near = [each for each in record["candidates"] if each["divergence"] <= 1.05 * least]

        assert len(record["candidates"]) > 1
        assert record["fitted_validation_ndcg@10"] == max(
            each["validation_ndcg@10"] for each in near
        )
        assert record["ratio"] >= 3

    @pytest.mark.parametrize("options", [(), ("--rows", 3, "--ratio", 4)])
    def test_one_budget_must_be_named(
        self, options: tuple[Any, ...], tiny_training: Trained, tiny_file: Path, tmp_path: Path
    ) -> None:
        """Neither none nor two."""
        where = ("--data", tiny_file, "--run", tiny_training.folder, "--out", tmp_path / "out")

        result = run("compress", *where, *options)

        assert result.exit_code != ExitCode.OK
        assert "--ratio" in result.stderr
