# SPDX-License-Identifier: Apache-2.0
"""How an item table part is laid out: version 1 holds one plain codebook, 2 all others.

A table has one encoding: what version 1 can hold is not accepted in version 2.
``docs/format.md`` §5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import MalformedArtifactError
from pocketrec_quantization.checks import reading
from pocketrec_quantization.codebook import Codebook
from pocketrec_quantization.item_ids import decode_ids, encode_ids
from pocketrec_quantization.limits import MAX_CODEBOOKS
from pocketrec_quantization.nibbles import packed_width
from pocketrec_quantization.row_numbers import RowNumbers, number_type
from pocketrec_quantization.tensor_header import read_header
from pocketrec_quantization.tensors import TENSORS_VERSION, TensorReader, write_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CODEBOOKS_VERSION",
    "ITEMS_KIND",
    "TableBytes",
    "TableContent",
    "read_table",
    "table_bytes",
    "write_table",
]

ITEMS_KIND = "pocketrec.items"
"""What an item table part declares to be."""

CODEBOOKS_VERSION = (2, 0)
"""Major and minor version of a part whose table is not one plain codebook."""

_CODEBOOK = re.compile(r"([48]):(0|[1-9][0-9]{0,4}):([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableContent:
    """What a part holds; ``ItemTable`` checks that it fits together.

    Args:
        codebooks: M of them.
        row_numbers: One entry for each.
        item_ids: V ids.
        version: Of the table.
    """

    codebooks: tuple[Codebook, ...]
    row_numbers: Sequence[NDArray[np.integer] | None]
    item_ids: tuple[str, ...]
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableBytes:
    """What a part spends on what.

    Args:
        embeddings: Codes, scales and row numbers.
        ids: Item ids and where they begin.
    """

    embeddings: int
    ids: int


def table_bytes(data: bytes, length_bytes: int | None = None) -> TableBytes:
    """Return what a part spends on what; only its header is read.

    Args:
        data: The part, or so much of its start that the header is in it.
        length_bytes: Of the whole part; None = ``data`` is the whole part.

    Raises:
        MalformedArtifactError: The bytes break the layout of tensor files.
    """
    entries = read_header(data, length_bytes).entries
    sizes = {name: entry.end - entry.begin for name, entry in entries.items()}
    ids = sum(sizes.pop(name, 0) for name in ("id_bytes", "id_offsets"))
    return TableBytes(embeddings=sum(sizes.values()), ids=ids)


def write_table(content: TableContent, *, is_plain: bool) -> bytes:
    """Serialise a table.

    Args:
        content: Of an ``ItemTable``.
        is_plain: Whether it is one codebook of 8 bits with a scale per row.

    Returns:
        The part; equal tables give equal bytes.
    """
    blob, offsets = encode_ids(content.item_ids)
    tensors: dict[str, NDArray[np.generic]] = {"id_bytes": blob, "id_offsets": offsets}
    metadata = {"table_version": str(content.version)}
    if is_plain:
        codebook, numbers = content.codebooks[0], content.row_numbers[0]
        if numbers is None:
            numbers = np.arange(codebook.n_rows)
        tensors["rows"] = codebook.codes
        tensors["scales"] = codebook.scales
        tensors["row_of_item"] = numbers.astype(np.int32)
        return write_tensors(tensors, kind=ITEMS_KIND, metadata=metadata)
    for number, (codebook, column) in enumerate(
        zip(content.codebooks, content.row_numbers, strict=True)
    ):
        tensors[f"codes/{number}"] = codebook.codes
        tensors[f"scales/{number}"] = codebook.scales
        if column is not None:
            tensors[f"row_of_item/{number}"] = column
    metadata["codebooks"] = ",".join(
        f"{each.bits}:{each.begin}:{each.width}" for each in content.codebooks
    )
    return write_tensors(tensors, kind=ITEMS_KIND, metadata=metadata, version=CODEBOOKS_VERSION)


def read_table(data: bytes) -> TableContent:
    """Read a part.

    Raises:
        MalformedArtifactError: The bytes are no item table part.
        IncompatibleArtifactError: The format's major version is unknown.
    """
    reader = TensorReader(data, kind=ITEMS_KIND, versions=(TENSORS_VERSION, CODEBOOKS_VERSION))
    offsets = reader.take("id_offsets", np.int64, (None,))
    item_ids = decode_ids(reader.take("id_bytes", np.uint8, (None,)), offsets)
    version = reader.count("table_version")
    read = _read_plain if reader.major == TENSORS_VERSION[0] else _read_codebooks
    codebooks, row_numbers = read(reader, len(offsets))
    reader.finish()
    return TableContent(
        codebooks=codebooks, row_numbers=row_numbers, item_ids=item_ids, version=version
    )


def _read_plain(reader: TensorReader, n_numbers: int) -> tuple[tuple[Codebook, ...], RowNumbers]:
    rows = reader.take("rows", np.int8, (None, None))
    scales = reader.take("scales", np.float32, (len(rows),))
    row_of_item = reader.take("row_of_item", np.int32, (n_numbers,))
    with reading("rows"):
        codebook = Codebook(codes=rows, scales=scales)
    return (codebook,), (row_of_item,)


def _read_codebooks(
    reader: TensorReader, n_numbers: int
) -> tuple[tuple[Codebook, ...], RowNumbers]:
    shapes = _read_shapes(reader.text("codebooks"))
    codebooks = tuple(_read_codebook(reader, number, shape) for number, shape in enumerate(shapes))
    if len(codebooks) == 1 and codebooks[0].bits == 8 and codebooks[0].has_row_scales:
        raise MalformedArtifactError("expected this table in version 1.0", field="codebooks")
    return codebooks, tuple(
        _read_numbers(reader, number, codebook.n_rows, n_numbers)
        for number, codebook in enumerate(codebooks)
    )


def _read_shapes(text: str) -> list[tuple[int, int, int]]:
    """Return bits, first column and width of every codebook."""
    entries = text.split(",", MAX_CODEBOOKS)
    matches = [_CODEBOOK.fullmatch(entry) for entry in entries]
    if len(entries) > MAX_CODEBOOKS or None in matches:
        raise MalformedArtifactError(
            f"expected 1..{MAX_CODEBOOKS} of bits:begin:width, got {text[:64]!r}",
            field="codebooks",
        )
    return [(int(m[1]), int(m[2]), int(m[3])) for m in matches if m is not None]


def _read_codebook(reader: TensorReader, number: int, shape: tuple[int, int, int]) -> Codebook:
    bits, begin, width = shape
    name = f"codes/{number}"
    # Copies: the bytes of the file, its ids among them, need not stay.
    if bits == 4:
        codes = reader.take(name, np.uint8, (None, packed_width(width))).copy()
    else:
        codes = reader.take(name, np.int8, (None, width)).copy()
    scales = reader.take(f"scales/{number}", np.float32, (None,)).copy()
    with reading(name):
        return Codebook(codes=codes, scales=scales, bits=bits, begin=begin, width=width)


def _read_numbers(
    reader: TensorReader, number: int, n_rows: int, n_numbers: int
) -> NDArray[np.integer] | None:
    name = f"row_of_item/{number}"
    if name not in reader.names(name):
        return None
    numbers = reader.take(name, number_type(n_rows), (n_numbers,)).copy()
    if n_rows == n_numbers and np.array_equal(numbers, np.arange(n_rows)):
        raise MalformedArtifactError("expected none where item i has row i", field=name)
    return numbers
