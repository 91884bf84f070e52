# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_cloud.backbones.caser import CaserConfig
from pocketrec_cloud.backbones.registry import make_backbone
from pocketrec_cloud.backbones.sasrec import SASRecConfig
from pocketrec_cloud.checkpoint import load_backbone, read_tensors, save_backbone, write_tensors
from pocketrec_cloud.compression.compressing import with_table
from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.fake_quantization import as_quantized
from pocketrec_cloud.compression.item_tables import item_table
from pocketrec_cloud.compression.layout import CodebookShape, TableLayout
from pocketrec_cloud.export import device_form

pytestmark = pytest.mark.usefixtures("one_thread")

N_ITEMS = 7
SHAPES = (
    SASRecConfig(n_items=N_ITEMS, embedding_dim=8, n_heads=2, window=4),
    CaserConfig(n_items=N_ITEMS, embedding_dim=8, window=4, max_height=2),
)
LAYOUTS = {
    "shared": (CodebookShape(n_rows=4, width=8, has_row_scales=True),),
    "four bits": (CodebookShape(n_rows=N_ITEMS + 1, width=8, bits=4, has_row_scales=True),),
    "product": (CodebookShape(n_rows=3, width=5), CodebookShape(n_rows=4, begin=5, width=3)),
    "residual": (
        CodebookShape(n_rows=3, width=8, has_row_scales=True),
        CodebookShape(n_rows=4, width=4, bits=4),
        CodebookShape(n_rows=4, begin=4, width=4, bits=4),
    ),
}


def table(name: str, seed: int = 0) -> CodebookEmbedding:
    """Random rows; items share them at random, or have one each where there are enough."""
    layout = TableLayout(embedding_dim=8, codebooks=LAYOUTS[name])
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(book.n_rows, book.width)) for book in layout.codebooks]
    for each in rows:
        each[0] = 0
    columns = [
        np.arange(N_ITEMS + 1)
        if book.n_rows == N_ITEMS + 1
        else np.concatenate([[0], rng.integers(1, book.n_rows, N_ITEMS)])
        for book in layout.codebooks
    ]
    return CodebookEmbedding(layout, np.stack(columns, axis=1), rows)


@pytest.fixture(params=LAYOUTS)
def embedding(request: pytest.FixtureRequest) -> CodebookEmbedding:
    """A table of every layout."""
    return table(request.param)


class TestRounding:
    def test_a_row_is_rounded_to_its_scale(self) -> None:
        """At 4 bits the largest magnitude, 14, is code 7: others go to multiples of 2."""
        rounded = as_quantized(torch.tensor([[14.0, 2.9, -3.1]]), 4, has_row_scales=True)

        assert rounded.tolist() == [[14.0, 2.0, -4.0]]

    def test_one_scale_serves_all_rows(self) -> None:
        """The second row is rounded by the first one's largest."""
        rows = torch.tensor([[14.0, 0.0], [0.9, 1.1]])

        assert as_quantized(rows, 4, has_row_scales=False).tolist() == [[14.0, 0.0], [0.0, 2.0]]

    def test_gradients_pass_as_if_nothing_was_rounded(self) -> None:
        """The sum's gradient is one everywhere."""
        rows = torch.tensor([[14.0, 2.9]], requires_grad=True)
        torch.autograd.backward(as_quantized(rows, 4, has_row_scales=True).sum())

        assert rows.grad is not None
        assert rows.grad.tolist() == [[1.0, 1.0]]

    def test_zeros_stay_zeros(self) -> None:
        """A scale of zero divides nothing."""
        assert as_quantized(torch.zeros(2, 3), 8, has_row_scales=True).eq(0).all()


class TestLookup:
    def test_an_embedding_is_the_sum_of_its_rows(self) -> None:
        """A row over all columns, and one over the last two."""
        layout = TableLayout(
            embedding_dim=3,
            codebooks=(CodebookShape(n_rows=2, width=3), CodebookShape(n_rows=3, begin=1, width=2)),
        )
        rows = [np.array([[0, 0, 0], [127, 64, 1]]), np.array([[0, 0], [127, 1], [2, 3]])]
        numbers = np.array([[0, 0], [1, 2], [1, 0]])

        found = CodebookEmbedding(layout, numbers, rows)(torch.tensor([[1, 2, 0]]))

        assert found.tolist() == [[[127, 66, 4], [127, 64, 1], [0, 0, 0]]]

    def test_the_weight_is_what_a_lookup_finds(self, embedding: CodebookEmbedding) -> None:
        """For every item, and zeros for padding."""
        items = torch.arange(N_ITEMS + 1)

        assert torch.equal(embedding.weight, embedding(items))
        assert embedding.weight[0].eq(0).all()
        assert embedding.weight[1:].any()

    def test_padding_learns_nothing(self, embedding: CodebookEmbedding) -> None:
        """Row 0 of no codebook has a gradient, whatever is looked up."""
        torch.autograd.backward(embedding(torch.arange(N_ITEMS + 1)).sum())

        for rows in embedding.rows:
            assert rows.grad is not None
            assert rows.grad[0].eq(0).all()
            assert rows.grad.any()

    def test_what_trained_is_what_ships(self, embedding: CodebookEmbedding) -> None:
        """The device's table holds the same numbers, bit for bit, in the bytes foretold."""
        items = item_table(embedding, tuple("abcdefg"), version=1)

        found = items.embed(np.arange(N_ITEMS + 1))

        assert np.array_equal(found, embedding.weight.detach().numpy())
        assert items.embedding_bytes == embedding.layout.n_bytes(N_ITEMS)

    def test_rows_that_do_not_exist_are_refused(self) -> None:
        """And padding that is an item."""
        layout = TableLayout(embedding_dim=2, codebooks=(CodebookShape(n_rows=3, width=2),))

        for numbers in ([[0], [3]], [[1], [2]], [[0], [-1]], [[0, 0], [1, 1]]):
            with pytest.raises(ConfigError, match="row_of_item"):
                CodebookEmbedding(layout, np.array(numbers))

    def test_a_row_0_that_is_not_zero_is_refused(self) -> None:
        """It is what padding looks up."""
        layout = TableLayout(embedding_dim=2, codebooks=(CodebookShape(n_rows=2, width=2),))

        with pytest.raises(ConfigError, match="zero"):
            CodebookEmbedding(layout, np.array([[0], [1]]), [np.ones((2, 2))])


class TestInBackbones:
    @pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
    def test_the_device_form_scores_the_same(
        self, shape: SASRecConfig | CaserConfig, embedding: CodebookEmbedding
    ) -> None:
        """The factor on inputs moves into the scales: codes stay."""
        torch.manual_seed(0)
        model = with_table(make_backbone(shape), embedding)
        history, lengths = torch.tensor([[3, 1, 7]]), torch.tensor([3])

        with torch.inference_mode():
            expected = model.last_states(history, lengths) @ embedding.weight.T
            folded = device_form(model)
            found = folded.last_states(history, lengths) @ folded.item_embedding.weight.T

        torch.testing.assert_close(found, expected)
        assert isinstance(folded.item_embedding, CodebookEmbedding)
        for before, after in zip(
            embedding.quantized_rows(), folded.item_embedding.quantized_rows(), strict=True
        ):
            assert np.array_equal(before[0], after[0])

    @pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
    def test_a_checkpoint_brings_it_back(
        self, shape: SASRecConfig | CaserConfig, embedding: CodebookEmbedding, tmp_path: Path
    ) -> None:
        """Layout, row numbers and rows."""
        model = with_table(make_backbone(shape), embedding)
        save_backbone(tmp_path / "file", model, tuple("abcdefg"), {})

        found = load_backbone(tmp_path / "file")[0].item_embedding

        assert isinstance(found, CodebookEmbedding)
        assert found.layout == embedding.layout
        assert torch.equal(found.weight, embedding.weight)

    def test_damaged_row_numbers_are_refused(self, tmp_path: Path) -> None:
        """A row that does not exist, named with the file."""
        model = with_table(make_backbone(SHAPES[0]), table("shared"))
        save_backbone(tmp_path / "file", model, tuple("abcdefg"), {})
        tensors, header = read_tensors(tmp_path / "file")
        tensors["item_embedding.row_of_item"][1] = 99
        write_tensors(tmp_path / "file", tensors, header)

        with pytest.raises(MalformedArtifactError, match="row_of_item"):
            load_backbone(tmp_path / "file")

    @pytest.mark.parametrize("entry", [3, {}, {"embedding_dim": 8, "codebooks": [{"rows": 3}]}])
    def test_an_impossible_layout_is_refused(self, entry: object, tmp_path: Path) -> None:
        """Named as what it is."""
        model = with_table(make_backbone(SHAPES[0]), table("shared"))
        save_backbone(tmp_path / "file", model, tuple("abcdefg"), {"item_table": entry})

        with pytest.raises(MalformedArtifactError, match="item_table"):
            load_backbone(tmp_path / "file")

    def test_a_table_of_another_size_is_refused(self) -> None:
        """One column less than the model has."""
        shape = SASRecConfig(n_items=N_ITEMS, embedding_dim=16, n_heads=2, window=4)

        with pytest.raises(ConfigError, match="table"):
            with_table(make_backbone(shape), table("shared"))
