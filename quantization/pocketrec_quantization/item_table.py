# SPDX-License-Identifier: Apache-2.0
"""Item embeddings as codebooks of int8 or int4 rows, and the map from item to rows.

Item indices run from 1 to V; 0 is padding and every unknown item. An item has one row in
each of M codebooks, and its embedding is their sum, each in the columns it covers. So one
table is plain rows (K = V + 1), items that share rows, rows with a correction, or product
quantization. The table has a version of its own: it can be replaced without touching the
model or its plans. ``docs/format.md`` §5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import check_integer, reading
from pocketrec_quantization.codebook import Codebook, check_codebooks
from pocketrec_quantization.gathered_rows import GatheredRows
from pocketrec_quantization.item_ids import encode_ids, index_ids
from pocketrec_quantization.item_table_file import ITEMS_KIND, TableContent, read_table, write_table
from pocketrec_quantization.row_numbers import RowNumbers, read_row_numbers
from pocketrec_quantization.tiles import Tiles

__all__ = ["ITEMS_KIND", "ROW_BITS", "Codebook", "GatheredRows", "ItemTable"]

ROW_BITS = 8
"""Width of the codes of a table of one plain codebook, in bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemTable:
    """V items over M codebooks of D columns together.

    Args:
        codebooks: M of them, in the order in which their rows are added; together they
            cover every column.
        row_of_item: (V + 1, M) integers, or (V + 1,) for one codebook, or M arrays of
            (V + 1,); entry 0 is 0. In the first codebook items have rows 1..K-1, in
            others 0 too: nothing is added. Held as M arrays of the smallest type, None
            where item i has row i.
        item_ids: V distinct ids; item index i is ``item_ids[i - 1]``.
        version: Only ever goes up.

    Raises:
        ConfigError: The fields do not fit together.
    """

    codebooks: tuple[Codebook, ...]
    row_of_item: NDArray[np.integer] | Sequence[NDArray[np.integer] | None]
    item_ids: tuple[str, ...]
    version: int
    _index_of: dict[str, int] = field(init=False, repr=False)
    _numbers: RowNumbers = field(init=False, repr=False)
    _tiles: Tiles | None = field(init=False, repr=False)
    # Of one codebook: looked up without asking how many there are.
    _codes: NDArray[np.int8] | None = field(init=False, repr=False)  # None = not plain int8
    _scales: NDArray[np.float32] = field(init=False, repr=False)
    _row_of_item: NDArray[np.integer] | None = field(init=False, repr=False)  # None = row i

    def __post_init__(self) -> None:
        check_integer(self.version, field="items.version")
        check_codebooks(self.codebooks)
        index_of = index_ids(self.item_ids)
        n_rows = [codebook.n_rows for codebook in self.codebooks]
        numbers = read_row_numbers(self.row_of_item, n_rows, len(self.item_ids))
        codebooks, tiles = self.codebooks, Tiles.of(self.codebooks, numbers)
        if tiles is not None:
            codebooks, numbers = tiles.codebooks(codebooks), tiles.row_numbers()
        first = codebooks[0]
        held = {
            "codebooks": codebooks,
            "row_of_item": numbers,
            "_index_of": index_of,
            "_numbers": numbers,
            "_tiles": tiles,
            "_codes": first.codes if _is_plain(codebooks) else None,
            "_scales": first.scales,
            "_row_of_item": numbers[0],
        }
        for name, value in held.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: NDArray[np.float32],
        item_ids: Sequence[str],
        version: int,
        bits: int = ROW_BITS,
    ) -> ItemTable:
        """Quantize one row per item.

        Args:
            embeddings: (V + 1, D) float; row 0 stands for padding and is replaced by zeros.
            item_ids: V ids, in the order of the rows.
            version: Of the new table.
            bits: 4 or 8.

        Raises:
            ConfigError: There is not one row per item, or ``bits`` is another width.
            QuantizationError: An embedding is not finite.
        """
        codebook = Codebook.from_rows(embeddings, bits=bits)
        ids = tuple(item_ids)
        return cls(codebooks=(codebook,), row_of_item=(None,), item_ids=ids, version=version)

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        return len(self.item_ids)

    @property
    def n_rows(self) -> int:
        """K of all codebooks together, their rows 0 counted."""
        return sum(codebook.n_rows for codebook in self.codebooks)

    @property
    def embedding_dim(self) -> int:
        """D."""
        return max(codebook.end for codebook in self.codebooks)

    @property
    def is_plain(self) -> bool:
        """Whether there is one codebook, of 8 bits with a scale per row."""
        return self._codes is not None

    @property
    def embedding_bytes(self) -> int:
        """Bytes held for embeddings: packed codes, scales and row numbers; ids apart."""
        numbers = sum(column.nbytes for column in self._numbers if column is not None)
        return sum(codebook.n_bytes for codebook in self.codebooks) + numbers

    @property
    def cached_bytes(self) -> int:
        """Bytes held besides, to score faster: dequantized rows of small codebooks."""
        return 0 if self._tiles is None else self._tiles.cached_bytes

    @property
    def id_bytes(self) -> int:
        """Bytes that a part takes for ids: UTF-8, and 8 for each offset."""
        return sum(array.nbytes for array in encode_ids(self.item_ids))

    def embed(self, item_indices: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Look up embeddings.

        Args:
            item_indices: (n,) integers, 0..V; 0 gives zeros.

        Returns:
            (n, D) float32: code times scale, added up codebook by codebook.

        Raises:
            ConfigError: An index is no integer, negative or above V.
        """
        if item_indices.dtype.kind not in "iu":
            raise ConfigError(f"item_indices: expected integers, got {item_indices.dtype}")
        if item_indices.size and not 0 <= item_indices.min() <= item_indices.max() <= self.n_items:
            raise ConfigError(
                f"item_indices: expected 0..{self.n_items}, got {item_indices.min()}.."
                f"{item_indices.max()}"
            )
        return self.embeddings(item_indices.astype(np.intp, copy=False))

    def embedding(self, item_index: int) -> NDArray[np.float32]:
        """Return the embedding of one item, (D,) float32: ``embed`` without its checks.

        Args:
            item_index: 0..V.
        """
        if self._codes is None:
            found: NDArray[np.float32] = self.embeddings(np.array([item_index], np.intp))[0]
            return found
        row = item_index if self._row_of_item is None else self._row_of_item[item_index]
        embedding: NDArray[np.float32] = np.multiply(
            self._codes[row], self._scales[row], dtype=np.float32
        )
        return embedding

    def embeddings(self, item_indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) items: ``embed`` without its checks.

        Args:
            item_indices: (n,) integers, 0..V, as ``indices_of`` returns them.
        """
        if self._codes is not None:
            rows = self._rows_of(item_indices)
            scales = self._scales.take(rows)[:, None]
            return np.multiply(self._codes.take(rows, axis=0), scales, dtype=np.float32)
        if self._tiles is not None:
            return self._tiles.embeddings(item_indices)
        return self._added(item_indices)

    def gather(self, item_indices: NDArray[np.intp]) -> GatheredRows:
        """Take items out to be scored; rows of one codebook are not dequantized.

        Args:
            item_indices: (n,) integers, 0..V, as ``indices_of`` returns them.
        """
        if self._codes is not None:
            numbers = self._row_of_item
            rows = item_indices if numbers is None else numbers.take(item_indices)
            return GatheredRows(
                codes=self._codes.take(rows, axis=0).astype(np.float32),
                scales=self._scales.take(rows),
            )
        if len(self.codebooks) > 1:
            ones = np.ones(len(item_indices), np.float32)
            return GatheredRows(codes=self.embeddings(item_indices), scales=ones)
        codebook, rows = self.codebooks[0], self._rows_of(item_indices)
        return GatheredRows(codes=codebook.floats_of(rows), scales=codebook.scales_of(rows))

    def index_of(self, item_id: str) -> int:
        """Return the index of an item, or 0 when it is unknown."""
        return self._index_of.get(item_id, 0)

    def indices_of(self, item_ids: Iterable[str]) -> NDArray[np.intp]:
        """Return the indices of items, (n,) intp; 0 where unknown."""
        ids = tuple(item_ids)
        try:
            # Twice as fast as asking for each, and fails unless all are known.
            found = itemgetter(*ids)(self._index_of) if len(ids) > 1 else None
        except KeyError:
            found = None
        if found is None:
            found = tuple(self._index_of.get(item_id, 0) for item_id in ids)
        return np.fromiter(found, np.intp, len(found))

    def distinct_indices(self, item_ids: tuple[str, ...]) -> NDArray[np.intp] | None:
        """Return the indices of items, (n,) intp, if all are known and none is named twice.

        One look at each id tells both, where ``indices_of`` and a search for repetitions
        would each take one; None where it cannot tell.
        """
        if len(item_ids) < 2:
            return None
        try:
            found = itemgetter(*item_ids)(self._index_of)
        except KeyError:
            return None
        n_items = len(found)
        return np.fromiter(found, np.intp, n_items) if len(set(found)) == n_items else None

    def to_bytes(self) -> bytes:
        """Serialise as an item table part; equal tables give equal bytes."""
        return write_table(
            TableContent(
                codebooks=self.codebooks,
                row_numbers=self._numbers,
                item_ids=self.item_ids,
                version=self.version,
            ),
            is_plain=self.is_plain,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ItemTable:
        """Read an item table part; the arrays of a plain table are views of ``data``.

        Raises:
            MalformedArtifactError: The bytes are no item table part.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        content = read_table(data)
        with reading("items"):
            return cls(
                codebooks=content.codebooks,
                row_of_item=content.row_numbers,
                item_ids=content.item_ids,
                version=content.version,
            )

    def _added(self, item_indices: NDArray[np.intp]) -> NDArray[np.float32]:
        if len(self.codebooks) == 1:
            return self.codebooks[0].embeddings(self._rows_of(item_indices))
        found = np.zeros((len(item_indices), self.embedding_dim), np.float32)
        for codebook, column in zip(self.codebooks, self._numbers, strict=True):
            rows = item_indices if column is None else column.take(item_indices)
            found[:, codebook.begin : codebook.end] += codebook.embeddings(rows)
        return found

    def _rows_of(self, item_indices: NDArray[np.intp]) -> NDArray[np.integer]:
        numbers = self._row_of_item
        return item_indices if numbers is None else numbers.take(item_indices)


def _is_plain(codebooks: Sequence[Codebook]) -> bool:
    return len(codebooks) == 1 and codebooks[0].bits == ROW_BITS and codebooks[0].has_row_scales
