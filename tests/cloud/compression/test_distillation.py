# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pocketrec_cloud.backbones.registry import make_backbone
from pocketrec_cloud.backbones.sasrec import SASRecConfig
from pocketrec_cloud.checkpoint import load_backbone, save_backbone
from pocketrec_cloud.compression.compressing import with_table
from pocketrec_cloud.compression.distillation import Distillation
from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.fitting import fit_table
from pocketrec_cloud.compression.layout import CodebookShape, TableLayout
from pocketrec_cloud.compression.searching import SearchingEmbedding, can_search

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_cloud.backbones.base import Backbone

pytestmark = pytest.mark.usefixtures("one_thread")

N_ITEMS = 30
INPUTS, TARGETS = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[2, 3, 4], [5, 6, 0]])
HALVES = TableLayout(
    embedding_dim=8,
    codebooks=tuple(CodebookShape(n_rows=6, begin=begin, width=4) for begin in (0, 4)),
)


@pytest.fixture
def teacher() -> Backbone:
    """A random backbone."""
    torch.manual_seed(0)
    shape = SASRecConfig(n_items=N_ITEMS, embedding_dim=8, n_heads=2, window=4)
    model = make_backbone(shape).eval()
    torch.nn.init.normal_(model.item_embedding.weight[1:].data)
    return model


@pytest.fixture
def student(teacher: Backbone) -> Backbone:
    """The same with a table of two codebooks that searches."""
    embeddings = teacher.item_embedding.weight.detach()
    fitted = fit_table(HALVES, embeddings.numpy(), weights=np.ones(N_ITEMS))
    model = copy.deepcopy(teacher)
    model.item_embedding = SearchingEmbedding(fitted, embeddings)
    return model


def loss(teacher: Backbone, student: Backbone) -> torch.Tensor:
    """The divergence on two histories, with the same sampled items each time."""
    torch.manual_seed(1)
    return Distillation(teacher).loss(student, INPUTS, TARGETS, n_negatives=16)


class TestDistillation:
    def test_a_twin_has_nothing_to_learn(self, teacher: Backbone) -> None:
        """Its divergence is zero."""
        assert abs(loss(teacher, copy.deepcopy(teacher)).item()) < 1e-6

    def test_a_compressed_model_learns_to_rank_alike(
        self, teacher: Backbone, student: Backbone
    ) -> None:
        """Steps on the table alone make the divergence smaller; the teacher stays."""
        before, first = copy.deepcopy(teacher.state_dict()), loss(teacher, student).item()
        optimizer = torch.optim.Adam(student.item_embedding.parameters(), lr=0.02)
        for _ in range(30):
            optimizer.zero_grad()
            torch.autograd.backward(loss(teacher, student))
            optimizer.step()

        assert 0 < loss(teacher, student).item() < 0.5 * first
        assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())

    def test_it_searches_every_tenth_batch(self, teacher: Backbone, student: Backbone) -> None:
        """Wishes that moved are followed then, and not before."""
        table = student.item_embedding
        assert isinstance(table, SearchingEmbedding)
        rows = table.row_of_item.clone()
        with torch.no_grad():
            table.wishes.copy_(table.wishes.flip(0).roll(1, 0))
        objective = Distillation(teacher)

        for _ in range(9):
            objective.loss(student, INPUTS, TARGETS, n_negatives=4)
        assert torch.equal(table.row_of_item, rows)

        objective.loss(student, INPUTS, TARGETS, n_negatives=4)
        assert not torch.equal(table.row_of_item, rows)


class TestSearch:
    def test_every_item_gets_the_nearest_rows(self, student: Backbone) -> None:
        """In each half of the columns, of all rows but row 0."""
        table = student.item_embedding
        assert isinstance(table, SearchingEmbedding)
        table.search()

        for place, begin in enumerate((0, 4)):
            rows = table.rows[place].detach()[1:]
            wishes = table.wishes.detach()[1:, begin : begin + 4]
            assert torch.equal(
                table.row_of_item[1:, place].long(), torch.cdist(wishes, rows).argmin(dim=1) + 1
            )
        assert table.row_of_item[0].eq(0).all()

    def test_a_later_codebook_sees_what_is_left(self) -> None:
        """A wish of 5 is a row of 4 and one of 1."""
        book = CodebookShape(n_rows=3, width=1)
        layout = TableLayout(embedding_dim=1, codebooks=(book, book))
        rows = [np.array([[0.0], [4.0], [-4.0]]), np.array([[0.0], [1.0], [-1.0]])]
        table = SearchingEmbedding(
            CodebookEmbedding(layout, np.array([[0, 0], [2, 2]]), rows),
            torch.tensor([[0.0], [5.0]]),
        )
        table.search()

        assert table.row_of_item.tolist() == [[0, 0], [1, 1]]

    def test_gradients_reach_rows_and_wishes(self, student: Backbone) -> None:
        """A wish gets its embedding's; padding gets none, nor do items not looked up."""
        table = student.item_embedding
        assert isinstance(table, SearchingEmbedding)
        torch.autograd.backward(2 * table(torch.tensor([0, 3])).sum())
        gradient = table.wishes.grad

        assert gradient is not None
        assert gradient[3].eq(2).all()
        assert gradient[[0, 1, 2]].eq(0).all()
        assert all(rows.grad is not None and rows.grad.eq(2).any() for rows in table.rows)

    def test_a_lookup_is_the_sum_of_rows(self, student: Backbone) -> None:
        """Wishes change nothing that is computed."""
        items = torch.arange(N_ITEMS + 1)
        found = student.item_embedding(items)

        torch.testing.assert_close(found, student.item_embedding.weight)

    def test_a_checkpoint_leaves_wishes_out(self, student: Backbone, tmp_path: Path) -> None:
        """What is read is codebooks alone."""
        save_backbone(tmp_path / "file", student, tuple(map(str, range(N_ITEMS))), {})
        found = load_backbone(tmp_path / "file")[0].item_embedding

        assert type(found) is CodebookEmbedding
        assert torch.equal(found.weight, student.item_embedding.weight)

    def test_large_codebooks_are_not_searched(self) -> None:
        """Nor are those with a row for each item."""
        large = CodebookShape(n_rows=257, width=8)

        assert can_search(HALVES, N_ITEMS)
        assert not can_search(TableLayout(embedding_dim=8, codebooks=(large,)), 10_000)
        assert not can_search(HALVES, 5)


def test_a_table_of_the_right_size_is_taken(teacher: Backbone) -> None:
    """The model it came from keeps its own."""
    embeddings = teacher.item_embedding.weight.detach()
    changed = with_table(teacher, fit_table(HALVES, embeddings.numpy(), weights=np.ones(N_ITEMS)))

    assert isinstance(changed.item_embedding, CodebookEmbedding)
    assert isinstance(teacher.item_embedding, torch.nn.Embedding)
