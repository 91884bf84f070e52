# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import ConfigError
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.testing import tiny_items

SHARED = ItemTable(
    rows=np.array([[0, 0], [1, -2], [127, 3]], np.int8),
    scales=np.array([0, 0.5, 2], np.float32),
    row_of_item=np.array([0, 2, 1, 2], np.int32),
    item_ids=("apple", "book", "cup"),
    version=7,
)
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


def test_sizes_are_told() -> None:
    """V items, K rows with padding, D dimensions."""
    assert (SHARED.n_items, SHARED.n_rows, SHARED.embedding_dim) == (3, 3, 2)


def test_quantized_embeddings_are_close() -> None:
    """One row per item at 8 bits loses under 1 % of every row."""
    embeddings = np.random.default_rng(0).normal(size=(51, 64)).astype(np.float32)

    table = ItemTable.from_embeddings(embeddings, [str(i) for i in range(50)], version=1)

    read = table.embed(np.arange(51))
    error = np.linalg.norm(read[1:] - embeddings[1:], axis=1)
    assert (error < 0.01 * np.linalg.norm(embeddings[1:], axis=1)).all()
    assert not read[0].any()


@given(st.lists(ids, min_size=1, max_size=5, unique=True), st.integers(0, 2**53 - 1))
def test_a_part_holds_everything(item_ids: list[str], version: int) -> None:
    """Ids of any script, rows and version come back as they were."""
    embeddings = np.arange((len(item_ids) + 1) * 3, dtype=np.float32).reshape(-1, 3)
    table = ItemTable.from_embeddings(embeddings, item_ids, version)

    read = ItemTable.from_bytes(table.to_bytes())

    assert read.item_ids == tuple(item_ids)
    assert read.version == version
    assert read.to_bytes() == table.to_bytes()


@pytest.mark.parametrize("indices", [np.array([4]), np.array([-1]), np.array([1.0])])
def test_indices_outside_the_catalogue_are_refused(indices: np.ndarray) -> None:
    """Embeddings exist for 0 to V."""
    with pytest.raises(ConfigError, match="item_indices: expected"):
        SHARED.embed(indices)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": np.zeros((3, 2), np.int16)},
        {"rows": np.full((3, 2), -128, np.int8)},
        {"rows": np.ones((3, 2), np.int8)},
        {"rows": np.zeros((1, 2), np.int8), "scales": np.zeros(1, np.float32)},
        {"scales": np.array([0, 1, np.inf], np.float32)},
        {"scales": np.ones(2, np.float32)},
        {"row_of_item": np.array([0, 1, 2, 3], np.int32)},
        {"row_of_item": np.array([0, 0, 1, 2], np.int32)},
        {"row_of_item": np.array([1, 1, 1, 2], np.int32)},
        {"row_of_item": np.array([0, 1, 2], np.int32)},
        {"row_of_item": np.array([0, 1, 2, 1], np.int64)},
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
        tiny_items().rows[1, 0] = 5
