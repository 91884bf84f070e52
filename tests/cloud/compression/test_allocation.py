# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_cloud.compression.allocation import LAYOUTS, Budget, float_bytes, lay_out
from pocketrec_cloud.compression.choice import candidates
from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.item_tables import item_table
from pocketrec_cloud.compression.layout import CodebookShape, TableLayout


def budget(max_bytes: int, n_items: int = 1_000, dim: int = 64) -> Budget:
    """A thousand items of 64 columns."""
    return Budget(n_items=n_items, embedding_dim=dim, max_bytes=max_bytes)


class TestBytes:
    def test_rows_are_counted_with_scales_and_numbers(self) -> None:
        """300 rows and row 0, of 64 codes and a scale; two bytes per item and for padding."""
        book = CodebookShape(n_rows=301, width=64, has_row_scales=True)
        layout = TableLayout(embedding_dim=64, codebooks=(book,))

        assert layout.n_bytes(1_000) == 301 * (64 + 4) + 2 * 1_001

    def test_a_row_of_its_own_needs_no_number(self) -> None:
        """1,001 rows of 32 bytes and a scale, and nothing else."""
        assert lay_out("plain", budget(10**6), 4).n_bytes(1_000) == 1_001 * (32 + 4)

    def test_codebooks_side_by_side_have_one_scale(self) -> None:
        """Two of 16 rows and 32 columns; a byte per item in each."""
        books = tuple(CodebookShape(n_rows=16, begin=begin, width=32) for begin in (0, 32))
        layout = TableLayout(embedding_dim=64, codebooks=books)

        assert layout.n_bytes(1_000) == 2 * (16 * 32 + 4 + 1_001)

    @pytest.mark.parametrize("n_items", [60, 255, 256, 3_000])
    @pytest.mark.parametrize("bits", [8, 4])
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_the_bytes_are_the_item_tables(self, name: str, bits: int, n_items: int) -> None:
        """What was foretold is what a table weighs, and is within the budget."""
        limit = float_bytes(n_items, 20) // (1 if name == "residual" else 2)
        layout = lay_out(name, budget(limit, n_items, 20), bits)
        rng = np.random.default_rng(0)
        numbers = [
            np.arange(n_items + 1)
            if book.n_rows == n_items + 1
            else np.concatenate([[0], rng.integers(1, book.n_rows, n_items)])
            for book in layout.codebooks
        ]
        embedding = CodebookEmbedding(layout, np.stack(numbers, axis=1))

        items = item_table(embedding, tuple(map(str, range(n_items))), version=0)

        assert items.embedding_bytes == layout.n_bytes(n_items) <= limit


class TestLayouts:
    def test_shared_rows_are_as_many_as_fit(self) -> None:
        """One more would not."""
        found = lay_out("shared", budget(30_000), 8)
        (book,) = found.codebooks
        wider = CodebookShape(n_rows=book.n_rows + 1, width=64, has_row_scales=True)

        assert found.n_bytes(1_000) <= 30_000
        assert TableLayout(embedding_dim=64, codebooks=(wider,)).n_bytes(1_000) > 30_000

    def test_a_product_takes_many_rows_where_items_are_many(self) -> None:
        """At 16 bytes for each of 35,000 items, 15 codebooks of 256 rows."""
        found = lay_out("product", budget(16 * 35_001, 35_000), 8)

        assert [book.n_rows for book in found.codebooks] == [256] * 15
        assert {book.width for book in found.codebooks} == {4, 5}

    def test_a_product_takes_fewer_rows_where_items_are_few(self) -> None:
        """256 rows of 64 bytes would be more than a thousand items' 16 bytes."""
        found = lay_out("product", budget(16 * 1_001), 8)

        assert max(book.n_rows for book in found.codebooks) < 256

    def test_nearly_as_many_combinations_in_larger_codebooks_are_better(self) -> None:
        """11 of 256 rows tell items apart by 88 bits, 13 of 128 rows by 91."""
        found = lay_out("product", budget(16 * 3_417, 3_416), 8)

        assert [book.n_rows for book in found.codebooks] == [256] * 11

    def test_four_bits_divide_columns_in_pairs(self) -> None:
        """So that no row has half a byte to spare."""
        found = lay_out("product", budget(16 * 35_001, 35_000), 4)

        assert all(book.width % 2 == 0 for book in found.codebooks)

    def test_a_residual_starts_with_whole_rows(self) -> None:
        """A product follows over the same columns."""
        first, *others = lay_out("residual", budget(16 * 35_001, 35_000), 8).codebooks

        assert (first.begin, first.width, first.has_row_scales) == (0, 64, True)
        assert sum(book.width for book in others) == 64

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_too_small_a_budget_is_refused(self, name: str) -> None:
        """With the bytes that would do."""
        with pytest.raises(InfeasibleBudgetError) as caught:
            lay_out(name, budget(100), 8)

        assert caught.value.requested_bytes == 100
        smallest = caught.value.minimum_bytes
        assert lay_out(name, budget(smallest), 8).n_bytes(1_000) == smallest

    def test_an_unknown_layout_is_refused(self) -> None:
        """Named, with those there are."""
        with pytest.raises(ConfigError, match="product"):
            lay_out("tree", budget(10**6), 8)

    def test_columns_that_no_codebook_covers_are_refused(self) -> None:
        """An embedding has all of them."""
        with pytest.raises(ConfigError, match="cover"):
            TableLayout(embedding_dim=4, codebooks=(CodebookShape(n_rows=2, width=3),))

    @pytest.mark.parametrize(
        "fields", [{"n_rows": 1, "width": 2}, {"n_rows": 2, "width": 0}, {"bits": 3}]
    )
    def test_an_impossible_codebook_is_refused(self, fields: dict[str, int]) -> None:
        """No row beside row 0, no column, or a width that no device reads."""
        with pytest.raises(ConfigError):
            CodebookShape(**({"n_rows": 2, "width": 2} | fields))  # type: ignore[arg-type]


class TestCandidates:
    def test_those_that_fit_are_tried(self) -> None:
        """At 36 bytes an item, a row of 4 bits each, and no row of 8."""
        found = [(name, bits) for name, bits, _ in candidates(budget(36 * 1_001))]

        assert ("plain", 4) in found
        assert ("plain", 8) not in found
        assert ("product", 8) in found
        assert {bits for _, bits, _ in candidates(budget(36 * 1_001), 4)} == {4}

    def test_shared_rows_are_tried_where_there_are_fewer_than_items(self) -> None:
        """With a row for each they are the plain ones, which are tried already."""
        names = [{name for name, _, _ in candidates(budget(size * 1_001))} for size in (36, 16)]

        assert "shared" not in names[0]
        assert "shared" in names[1]

    def test_a_budget_for_none_is_refused(self) -> None:
        """With the least that would do for one."""
        with pytest.raises(InfeasibleBudgetError) as caught:
            candidates(budget(100))

        assert candidates(budget(caught.value.minimum_bytes))
