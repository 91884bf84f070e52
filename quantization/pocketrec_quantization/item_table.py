# SPDX-License-Identifier: Apache-2.0
"""Item embeddings as a codebook of int8 rows, and the map from item to row.

Item indices run from 1 to V; 0 is padding and every unknown item, and row 0 holds
zeros. Several items may share a row. The table has a version of its own: it can be
replaced without touching the model or its plans. ``docs/format.md`` §5.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.checks import check_integer, read_only, reading
from pocketrec_quantization.limits import MAX_ITEM_ID_BYTES, MAX_ITEMS
from pocketrec_quantization.quantizer import check_scales, quantize_rows
from pocketrec_quantization.tensors import TensorReader, write_tensors

__all__ = ["ITEMS_KIND", "ROW_BITS", "GatheredRows", "ItemTable"]

ITEMS_KIND = "pocketrec.items"
"""What an item table part declares to be."""

ROW_BITS = 8
"""Width of a row's codes, in bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatheredRows:
    """The embeddings of a few items, taken out of a table to be scored.

    Args:
        codes: (M, D) float32, integers.
        scales: (M,) float32; an embedding is codes times scale.
    """

    codes: NDArray[np.float32]
    scales: NDArray[np.float32]

    def scores(self, h: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return inner products with a user's state.

        Every row is summed on its own, in one thread: a score depends neither on the
        other rows nor on where its row stands.

        Args:
            h: (D,) float32.

        Returns:
            (M,) float32.
        """
        products: NDArray[np.float32] = np.vecdot(self.codes, h)
        products *= self.scales
        return products

    def embedding(self, position: int) -> NDArray[np.float32]:
        """Return one item's embedding, (D,) float32."""
        embedding: NDArray[np.float32] = self.codes[position] * self.scales[position]
        return embedding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemTable:
    """V items over K rows of D dimensions.

    Args:
        rows: (K, D) int8, codes of -127..127; row 0 is zero.
        scales: (K,) float32, zero or 2**-126 <= scale < 2**120.
        row_of_item: (V + 1,) int32; entry 0 is 0, the others 1..K-1.
        item_ids: V distinct ids; item index i is ``item_ids[i - 1]``.
        version: Only ever goes up.

    Raises:
        ConfigError: The fields do not fit together.
    """

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]
    row_of_item: NDArray[np.int32]
    item_ids: tuple[str, ...]
    version: int
    _index_of: dict[str, int] = field(init=False, repr=False)
    _is_one_to_one: bool = field(init=False, repr=False)  # row i is item i: no look-up

    def __post_init__(self) -> None:
        check_integer(self.version, field="items.version")
        self._check_rows()
        self._check_items()
        index_of = {item_id: index for index, item_id in enumerate(self.item_ids, start=1)}
        if len(index_of) != len(self.item_ids):
            raise ConfigError("item_ids: an id occurs twice")
        object.__setattr__(self, "_index_of", index_of)
        one_to_one = np.array_equal(self.row_of_item, np.arange(len(self.row_of_item)))
        object.__setattr__(self, "_is_one_to_one", one_to_one)
        for name in ("rows", "scales", "row_of_item"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def from_embeddings(
        cls, embeddings: NDArray[np.float32], item_ids: Sequence[str], version: int
    ) -> ItemTable:
        """Quantize one row per item.

        Args:
            embeddings: (V + 1, D) float; row 0 stands for padding and is replaced by zeros.
            item_ids: V ids, in the order of the rows.
            version: Of the new table.

        Raises:
            ConfigError: There is not one row per item.
            QuantizationError: An embedding is not finite.
        """
        codes, scales = quantize_rows(embeddings)
        codes[0], scales[0] = 0, 0
        row_of_item = np.arange(len(codes), dtype=np.int32)
        ids = tuple(item_ids)
        return cls(
            rows=codes, scales=scales, row_of_item=row_of_item, item_ids=ids, version=version
        )

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        return len(self.item_ids)

    @property
    def n_rows(self) -> int:
        """K, the padding row counted."""
        return int(self.rows.shape[0])

    @property
    def embedding_dim(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def embed(self, item_indices: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Look up embeddings.

        Args:
            item_indices: (n,) integers, 0..V; 0 gives zeros.

        Returns:
            (n, D) float32, code times scale.

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
        row = self.row_of_item[item_index]
        embedding: NDArray[np.float32] = np.multiply(
            self.rows[row], self.scales[row], dtype=np.float32
        )
        return embedding

    def embeddings(self, item_indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) items: ``embed`` without its checks.

        Args:
            item_indices: (n,) integers, 0..V, as ``indices_of`` returns them.
        """
        rows = self._rows_of(item_indices)
        codes, scales = self.rows.take(rows, axis=0), self.scales.take(rows)
        found: NDArray[np.float32] = np.multiply(codes, scales[:, None], dtype=np.float32)
        return found

    def gather(self, item_indices: NDArray[np.intp]) -> GatheredRows:
        """Take items out to be scored; nothing is dequantized.

        Args:
            item_indices: (M,) integers, 0..V, as ``indices_of`` returns them.
        """
        rows = self._rows_of(item_indices)
        return GatheredRows(
            codes=self.rows.take(rows, axis=0).astype(np.float32), scales=self.scales.take(rows)
        )

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
        encoded = [item_id.encode() for item_id in self.item_ids]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(item_id) for item_id in encoded], out=offsets[1:])
        tensors: dict[str, NDArray[np.generic]] = {
            "rows": self.rows,
            "scales": self.scales,
            "row_of_item": self.row_of_item,
            "id_bytes": np.frombuffer(b"".join(encoded), np.uint8),
            "id_offsets": offsets,
        }
        metadata = {"table_version": str(self.version)}
        return write_tensors(tensors, kind=ITEMS_KIND, metadata=metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> ItemTable:
        """Read an item table part; the arrays are views of ``data``.

        Raises:
            MalformedArtifactError: The bytes are no item table part.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        reader = TensorReader(data, kind=ITEMS_KIND)
        rows = reader.take("rows", np.int8, (None, None))
        scales = reader.take("scales", np.float32, (len(rows),))
        row_of_item = reader.take("row_of_item", np.int32, (None,))
        offsets = reader.take("id_offsets", np.int64, row_of_item.shape)
        item_ids = _read_ids(reader.take("id_bytes", np.uint8, (None,)), offsets)
        version = reader.count("table_version")
        reader.finish()
        with reading("items"):
            return cls(
                rows=rows,
                scales=scales,
                row_of_item=row_of_item,
                item_ids=item_ids,
                version=version,
            )

    def _rows_of(self, item_indices: NDArray[np.intp]) -> NDArray[np.intp] | NDArray[np.int32]:
        return item_indices if self._is_one_to_one else self.row_of_item.take(item_indices)

    def _check_rows(self) -> None:
        if self.rows.dtype != np.int8 or self.rows.ndim != 2 or self.rows.size == 0:
            raise ConfigError(
                f"rows: expected (K, D) int8, got {self.rows.dtype} of {self.rows.shape}"
            )
        if not 2 <= self.n_rows <= MAX_ITEMS + 1:
            raise ConfigError(
                f"rows: expected the padding row and 1..{MAX_ITEMS} more, got {self.n_rows}"
            )
        if (self.rows == -128).any() or self.rows[0].any():
            raise ConfigError("rows: expected codes of -127..127, and zeros in row 0")
        check_scales(self.scales, (self.n_rows,))

    def _check_items(self) -> None:
        if not 1 <= self.n_items <= MAX_ITEMS:
            raise ConfigError(f"item_ids: expected 1..{MAX_ITEMS} ids, got {self.n_items}")
        if self.row_of_item.dtype != np.int32 or self.row_of_item.shape != (self.n_items + 1,):
            raise ConfigError(
                f"row_of_item: expected ({self.n_items + 1},) int32 for {self.n_items} ids, got "
                f"{self.row_of_item.dtype} of {self.row_of_item.shape}"
            )
        used = self.row_of_item[1:]
        if self.row_of_item[0] != 0 or not 1 <= used.min() <= used.max() < self.n_rows:
            raise ConfigError(
                f"row_of_item: expected 0 for padding and 1..{self.n_rows - 1} for items"
            )
        for item_id in self.item_ids:
            if not 1 <= _utf8_length(item_id) <= MAX_ITEM_ID_BYTES:
                raise ConfigError(
                    f"item_ids: expected 1..{MAX_ITEM_ID_BYTES} UTF-8 bytes, got {item_id!r:.80}"
                )


def _utf8_length(text: str) -> int:
    """Count UTF-8 bytes; 0 for text that UTF-8 cannot express (lone surrogates)."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return 0


def _read_ids(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[str, ...]:
    if offsets[0] != 0 or offsets[-1] != blob.size or (offsets[1:] <= offsets[:-1]).any():
        raise MalformedArtifactError(f"expected to rise from 0 to {blob.size}", field="id_offsets")
    text = blob.tobytes()
    bounds = offsets.tolist()
    try:
        pairs = itertools.pairwise(bounds)
        return tuple(text[begin:end].decode() for begin, end in pairs)
    except UnicodeDecodeError as error:
        raise MalformedArtifactError("expected UTF-8", field="id_bytes") from error
