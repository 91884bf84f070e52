# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketrec.errors import ConfigError
from pocketrec_quantization.item_table import Codebook, GatheredRows, ItemTable
from pocketrec_quantization.item_table_info import ItemTableInfo
from pocketrec_quantization.testing import TABLE_KINDS, random_table, tiny_items

SHARED = ItemTable(
    codebooks=(
        Codebook(
            codes=np.array([[0, 0], [1, -2], [127, 3]], np.int8),
            scales=np.array([0, 0.5, 2], np.float32),
        ),
    ),
    row_of_item=np.array([0, 2, 1, 2], np.int32),
    item_ids=("apple", "book", "cup"),
    version=7,
)
TABLES = {
    "shared": SHARED,
    "one to one": tiny_items(),
    **{kind: random_table(kind) for kind in TABLE_KINDS},
}
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_items_may_share_a_row() -> None:
    """Apple and cup look the same, padding is zeros, and a value is code times scale."""
    vectors = SHARED.embed(np.array([1, 2, 3, 0]))

    assert vectors.tolist() == [[254, 6], [0.5, -1], [254, 6], [0, 0]]
    assert vectors.dtype == np.float32


def test_ids_are_found_and_unknown_ones_are_padding() -> None:
    """An id that the catalogue does not know has index 0."""
    assert SHARED.index_of("book") == 2
    assert SHARED.index_of("door") == 0
    assert SHARED.indices_of(["cup", "door", "apple"]).tolist() == [3, 0, 1]
    assert SHARED.indices_of([]).tolist() == []


class TestBytes:
    def test_plain_rows_need_no_numbers(self) -> None:
        """Rows of one item each: codes and scales are all there is, ids apart."""
        table = tiny_items()

        assert table.embedding_bytes == 7 * (table.embedding_dim + 4)
        assert table.id_bytes == 6 * len("item-1") + 7 * 8

    def test_row_numbers_are_as_small_as_they_can_be(self) -> None:
        """256 rows are numbered in one byte, 257 in two, 65,537 in four."""
        for n_rows, number_bytes in ((256, 1), (257, 2), (65536, 2), (65537, 4)):
            codebook = Codebook(codes=np.zeros((n_rows, 1), np.int8), scales=np.ones(1, np.float32))
            table = ItemTable(
                codebooks=(codebook,),
                row_of_item=np.array([0, n_rows - 1, 1], np.int64),
                item_ids=("a", "b"),
                version=0,
            )

            assert table.embedding_bytes == n_rows + 4 + 3 * number_bytes

    @pytest.mark.parametrize("kind", ["product 8", "product 4"])
    def test_small_codebooks_side_by_side_are_kept_dequantized(self, kind: str) -> None:
        """Where that takes no more than the row numbers, and never changes what is read."""
        few = TABLES[kind]
        many = replace(
            few,
            row_of_item=np.repeat(np.stack(few.row_of_item, axis=1), 100, axis=0)[99:],
            item_ids=tuple(str(i) for i in range(2000)),
        )

        assert (few.cached_bytes, many.cached_bytes) == (0, 4 * few.n_rows * 2)
        indices = np.array([1, 2000, 0])
        np.testing.assert_array_equal(many.embed(indices), few.embed(np.array([1, 20, 0])))

    def test_four_bits_are_packed(self) -> None:
        """Two codes to a byte, and a row of odd length ends its byte."""
        embeddings = np.ones((3, 5), np.float32)

        table = ItemTable.from_embeddings(embeddings, ["a", "b"], version=1, bits=4)

        assert table.embedding_bytes == 3 * (3 + 4)


def test_sizes_are_told() -> None:
    """V items, K rows with padding, D dimensions."""
    assert (SHARED.n_items, SHARED.n_rows, SHARED.embedding_dim) == (3, 3, 2)


@pytest.mark.parametrize(("bits", "loss"), [(8, 0.01), (4, 0.18)])
def test_quantized_embeddings_are_close(bits: int, loss: float) -> None:
    """One row per item loses under 1 % of every row at 8 bits, under 18 % at 4."""
    embeddings = np.random.default_rng(0).normal(size=(51, 64)).astype(np.float32)

    table = ItemTable.from_embeddings(embeddings, [str(i) for i in range(50)], version=1, bits=bits)

    read = table.embed(np.arange(51))
    error = np.linalg.norm(read[1:] - embeddings[1:], axis=1)
    assert (error < loss * np.linalg.norm(embeddings[1:], axis=1)).all()
    assert not read[0].any()


class TestCodebooks:
    def test_rows_are_added_where_they_lie(self) -> None:
        """By hand: three columns, of which the second codebook covers the last two."""
        first = Codebook(
            codes=np.array([[0, 0, 0], [1, 2, 3]], np.int8), scales=np.array([0, 2], np.float32)
        )
        second = Codebook(
            codes=np.array([[0, 0], [-7, 7], [1, 1]], np.int8),
            scales=np.array([0.5], np.float32),
            bits=4,
            begin=1,
        )
        table = ItemTable(
            codebooks=(first, second),
            row_of_item=np.array([[0, 0], [1, 1], [1, 2], [1, 0]]),
            item_ids=("a", "b", "c"),
            version=1,
        )

        vectors = table.embed(np.array([1, 2, 3, 0]))

        assert vectors.tolist() == [[2, 0.5, 9.5], [2, 4.5, 6.5], [2, 4, 6], [0, 0, 0]]
        scores = table.gather(np.array([1, 0])).scores(np.array([1, 2, 4], np.float32))
        assert scores.tolist() == [41, 0]

    def test_an_item_needs_a_row_in_the_first(self) -> None:
        """Only further codebooks may have nothing for an item."""
        with pytest.raises(ConfigError, match=r"expected 0 for padding and 1\.\.9"):
            replace(TABLES["product 8"], row_of_item=np.zeros((21, 8), np.int32))

    @pytest.mark.parametrize("kind", TABLE_KINDS)
    def test_an_embedding_is_the_sum_of_its_rows(self, kind: str) -> None:
        """Whatever way a table is read, it gives code times scale, added up."""
        table = TABLES[kind]
        expected = np.zeros((table.n_items + 1, table.embedding_dim), np.float32)
        for codebook, column in zip(table.codebooks, table.row_of_item, strict=True):
            rows = np.arange(table.n_items + 1) if column is None else column
            codes = codebook.codes_of(np.arange(codebook.n_rows))
            scales = np.broadcast_to(codebook.scales, codebook.n_rows)
            values = codes.astype(np.float32) * scales[:, None]
            expected[:, codebook.begin : codebook.end] += values[rows]

        np.testing.assert_array_equal(table.embed(np.arange(table.n_items + 1)), expected)

    @pytest.mark.parametrize("kind", TABLE_KINDS)
    def test_a_part_holds_them_all(self, kind: str) -> None:
        """Codebooks, scales and row numbers come back as they were."""
        table = TABLES[kind]

        read = ItemTable.from_bytes(table.to_bytes())

        assert read.to_bytes() == table.to_bytes()
        assert read.embedding_bytes == table.embedding_bytes
        indices = np.arange(table.n_items + 1)
        np.testing.assert_array_equal(read.embed(indices), table.embed(indices))


@given(st.lists(ids, min_size=1, max_size=5, unique=True), st.integers(0, 2**53 - 1))
def test_a_part_holds_everything(item_ids: list[str], version: int) -> None:
    """Ids of any script, rows and version come back as they were."""
    embeddings = np.arange((len(item_ids) + 1) * 3, dtype=np.float32).reshape(-1, 3)
    table = ItemTable.from_embeddings(embeddings, item_ids, version)

    read = ItemTable.from_bytes(table.to_bytes())

    assert read.item_ids == tuple(item_ids)
    assert read.version == version
    assert read.to_bytes() == table.to_bytes()


@st.composite
def tables(draw: st.DrawFn) -> ItemTable:
    """Draw a table of one to four codebooks over five columns at most."""
    n_items = draw(st.integers(1, 6))
    codebooks: list[Codebook] = []
    numbers: list[np.ndarray] = []
    covered = 0
    for number in range(draw(st.integers(1, 4))):
        begin, width = draw(st.integers(0, covered)), draw(st.integers(1, 3))
        bits, n_rows = draw(st.sampled_from([4, 8])), draw(st.integers(2, 8))
        largest = 2 ** (bits - 1) - 1
        codes = draw(hnp.arrays(np.int8, (n_rows, width), elements=st.integers(-largest, largest)))
        codes[0] = 0
        scale = st.sampled_from([0.0, 0.25, 2.0**-126, 2.0**119])
        n_scales = draw(st.sampled_from([1, n_rows]))
        scales = draw(hnp.arrays(np.float32, n_scales, elements=scale))
        codebooks.append(Codebook(codes=codes, scales=scales, bits=bits, begin=begin))
        rows = st.integers(0 if number else 1, n_rows - 1)
        numbers.append(np.array([0, *draw(st.lists(rows, min_size=n_items, max_size=n_items))]))
        covered = max(covered, begin + width)
    return ItemTable(
        codebooks=tuple(codebooks),
        row_of_item=np.stack(numbers, axis=1),
        item_ids=tuple(str(i) for i in range(n_items)),
        version=draw(st.integers(0, 9)),
    )


@given(tables())
def test_any_table_survives_its_part(table: ItemTable) -> None:
    """Whatever the codebooks are, a part gives them back, in the bytes it was made of."""
    data = table.to_bytes()

    read = ItemTable.from_bytes(data)

    assert read.to_bytes() == data
    assert ItemTableInfo.of(read) == ItemTableInfo.of(table)
    indices = np.arange(table.n_items + 1)
    np.testing.assert_array_equal(read.embed(indices), table.embed(indices))


@pytest.mark.parametrize("indices", [np.array([4]), np.array([-1]), np.array([1.0])])
def test_indices_outside_the_catalogue_are_refused(indices: np.ndarray) -> None:
    """Embeddings exist for 0 to V."""
    with pytest.raises(ConfigError, match="item_indices: expected"):
        SHARED.embed(indices)


@pytest.mark.parametrize(
    "changes",
    [
        {"codebooks": ()},
        {"codebooks": SHARED.codebooks * 257},
        {"codebooks": SHARED.codebooks * 2},
        {"codebooks": (replace(SHARED.codebooks[0], begin=1),)},
        {"row_of_item": (None,)},
        {"row_of_item": (None, None)},
        {"row_of_item": np.zeros((4, 1, 1), np.int32)},
        {"row_of_item": np.zeros(0, np.int32)},
        {"row_of_item": np.array([0.0, 1.0, 2.0, 1.0])},
        {"row_of_item": np.array([0, 1, 2, 3], np.int32)},
        {"row_of_item": np.array([0, 0, 1, 2], np.int32)},
        {"row_of_item": np.array([1, 1, 1, 2], np.int32)},
        {"row_of_item": np.array([0, 1, 2], np.int32)},
        {"item_ids": ("a", "b", "a")},
        {"item_ids": ("a", "", "c")},
        {"item_ids": ("a", "x" * 257, "c")},
        {"item_ids": ("a", "\ud800", "c")},
        {"item_ids": ()},
        {"version": -1},
    ],
)
def test_tables_that_make_no_sense(changes: dict[str, Any]) -> None:
    """A table is refused when its fields do not fit together."""
    with pytest.raises(ConfigError, match=r": "):
        replace(SHARED, **changes)


def test_embeddings_without_ids_are_refused() -> None:
    """One row per id and one for padding, or nothing."""
    with pytest.raises(ConfigError, match="row_of_item: expected"):
        ItemTable.from_embeddings(np.ones((3, 2), np.float32), ["only one"], version=0)


def test_tables_cannot_be_written_to() -> None:
    """A table's arrays are read-only."""
    with pytest.raises(ValueError, match="read-only"):
        tiny_items().codebooks[0].codes[1, 0] = 5


@pytest.mark.parametrize("kind", TABLES)
def test_one_embedding_is_that_of_the_lookup(kind: str) -> None:
    """The way without checks gives the same bits, for padding too."""
    table = TABLES[kind]
    for index in range(table.n_items + 1):
        found = table.embedding(index)

        np.testing.assert_array_equal(found, table.embed(np.array([index]))[0])
        assert found.dtype == np.float32


class TestGatheredRows:
    def test_by_hand(self) -> None:
        """Codes times scale times state: book is (1, -2) / 2, apple and cup (127, 3) * 2."""
        rows = SHARED.gather(SHARED.indices_of(["book", "door", "apple", "cup"]))

        scores = rows.scores(np.array([3, 1], np.float32))

        assert scores.tolist() == [0.5, 0, 768, 768]
        assert scores.dtype == np.float32

    @pytest.mark.parametrize("kind", TABLES)
    def test_none_at_all(self, kind: str) -> None:
        """Nothing to score, or to embed, is no error."""
        table = TABLES[kind]
        nothing, h = table.indices_of([]), np.ones(table.embedding_dim, np.float32)

        assert table.gather(nothing).scores(h).shape == (0,)
        assert table.embed(nothing).shape == (0, table.embedding_dim)

    @pytest.mark.parametrize("kind", TABLES)
    def test_embeddings_are_those_of_the_table(self, kind: str) -> None:
        """A gathered row can be taken in as an event, bit for bit."""
        table = TABLES[kind]
        indices = np.array([3, 0, 2, 3])
        rows = table.gather(indices)

        for position, embedding in enumerate(table.embed(indices)):
            np.testing.assert_array_equal(rows.embedding(position), embedding)

    @given(st.integers(1, 130), st.integers(2, 40), st.floats(-100, 100, width=32), st.data())
    def test_a_score_depends_on_its_row_alone(
        self, dim: int, n_rows: int, size: float, data: st.DataObject
    ) -> None:
        """Neighbours, place and number of rows change no bit of a score."""
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        codes = rng.integers(-127, 128, (n_rows, dim)).astype(np.float32)
        scales = rng.random(n_rows, np.float32)
        h = (size * rng.standard_normal(dim)).astype(np.float32)
        chosen = data.draw(st.lists(st.integers(0, n_rows - 1), min_size=1, max_size=50))

        everything = GatheredRows(codes=codes, scales=scales).scores(h)
        some = GatheredRows(codes=codes[chosen], scales=scales[chosen]).scores(h)

        np.testing.assert_array_equal(some, everything[chosen])
        exact = (codes.astype(np.float64) @ h) * scales
        sums = (np.abs(codes).astype(np.float64) @ np.abs(h)) * scales
        assert (np.abs(everything - exact) <= (dim + 2) * 2.0**-24 * sums + 1e-37).all()

    @pytest.mark.parametrize("kind", TABLE_KINDS)
    @given(st.lists(st.integers(0, 20), min_size=1, max_size=50), st.integers(0, 2**32 - 1))
    def test_so_it_does_with_any_codebooks(self, kind: str, chosen: list[int], seed: int) -> None:
        """However many codebooks there are, an item's score is its own."""
        table = TABLES[kind]
        h = np.random.default_rng(seed).standard_normal(table.embedding_dim).astype(np.float32)

        everything = table.gather(np.arange(table.n_items + 1)).scores(h)
        some = table.gather(np.array(chosen)).scores(h)

        np.testing.assert_array_equal(some, everything[chosen])

    @given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 2**32 - 1))
    def test_items_of_one_row_tie_exactly(self, n_before: int, dim: int, seed: int) -> None:
        """Two items that look the same score the same, however far apart they stand."""
        rng = np.random.default_rng(seed)
        embeddings = rng.standard_normal((3, dim)).astype(np.float32)
        table = replace(
            ItemTable.from_embeddings(embeddings, ["a", "b"], version=1),
            row_of_item=np.array([0, 1, 2, 1], np.int32),
            item_ids=("a", "b", "twin of a"),
        )
        between = ["b"] * n_before

        rows = table.gather(table.indices_of(["a", *between, "twin of a"]))
        scores = rows.scores(rng.standard_normal(dim).astype(np.float32))

        assert scores[0] == scores[-1]
        assert len(set(scores[1:-1].tolist())) == 1
