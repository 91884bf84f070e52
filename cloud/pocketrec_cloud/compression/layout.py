# SPDX-License-Identifier: Apache-2.0
"""The shape of a compressed item table, and what it weighs to the byte.

A table has codebooks. A codebook has rows of integer codes for some columns; every item
has one row number per codebook, and its embedding is the sum of its rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pocketrec.errors import ConfigError

__all__ = ["CodebookShape", "TableLayout", "layout_fields", "layout_of", "number_bytes"]

WIDTHS = (4, 8)
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookShape:
    """The shape of one codebook.

    Attributes:
        n_rows: K, row 0 counted, which is zero.
        width: W, columns.
        begin: The first column.
        bits: Of a code: 8 or 4.
        has_row_scales: One scale per row; otherwise one for the codebook.

    Raises:
        ConfigError: A number is out of range.
    """

    n_rows: int
    width: int
    begin: int = 0
    bits: int = 8
    has_row_scales: bool = False

    def __post_init__(self) -> None:
        if self.n_rows < 2 or self.width < 1 or self.begin < 0:
            raise ConfigError(f"expected a row beside row 0 and a column, found {self}")
        if self.bits not in WIDTHS:
            raise ConfigError(f"bits: expected one of {WIDTHS}, found {self.bits}")

    @property
    def end(self) -> int:
        """The column after the last."""
        return self.begin + self.width

    @property
    def n_bytes(self) -> int:
        """Bytes of codes, two to a byte at 4 bits with every row rounded up, and scales."""
        row_bytes = -(-self.width * self.bits // 8)
        n_scales = self.n_rows if self.has_row_scales else 1
        return self.n_rows * row_bytes + _SCALE_BYTES * n_scales


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLayout:
    """The shapes of all codebooks.

    Attributes:
        embedding_dim: D.
        codebooks: At least one; together they cover every column.

    Raises:
        ConfigError: A column is in no codebook, or a codebook ends after column D.
    """

    embedding_dim: int
    codebooks: tuple[CodebookShape, ...]

    def __post_init__(self) -> None:
        covered = {column for book in self.codebooks for column in range(book.begin, book.end)}
        if covered != set(range(self.embedding_dim)):
            raise ConfigError(
                f"codebooks: expected to cover {self.embedding_dim} columns and no other, "
                f"found {[(book.begin, book.end) for book in self.codebooks]}"
            )

    @property
    def n_rows(self) -> int:
        """Rows of all codebooks, zero rows not counted."""
        return sum(book.n_rows - 1 for book in self.codebooks)

    def n_bytes(self, n_items: int) -> int:
        """Return the bytes of codes, scales and row numbers: ``ItemTable.embedding_bytes``.

        Args:
            n_items: V.
        """
        numbers = sum(number_bytes(book.n_rows, n_items) for book in self.codebooks)
        return numbers + sum(book.n_bytes for book in self.codebooks)


def number_bytes(n_rows: int, n_items: int) -> int:
    """Return the bytes of one codebook's row numbers, padding included.

    A codebook with a row for each item has none: item i has row i.

    Args:
        n_rows: K.
        n_items: V.
    """
    if n_rows == n_items + 1:
        return 0
    per_item = 1 if n_rows <= 2**8 else 2 if n_rows <= 2**16 else 4
    return per_item * (n_items + 1)


def layout_fields(layout: TableLayout) -> dict[str, object]:
    """Return what JSON can hold of a layout, for ``layout_of``."""
    return {
        "embedding_dim": layout.embedding_dim,
        "codebooks": [asdict(book) for book in layout.codebooks],
    }


def layout_of(fields: object) -> TableLayout:
    """Return the layout whose ``layout_fields`` these are.

    Raises:
        ConfigError: They are no layout's, or the layout is impossible.
    """
    if not isinstance(fields, dict) or fields.keys() != {"embedding_dim", "codebooks"}:
        raise ConfigError("expected the layout of an item table, found other fields")
    try:
        books = tuple(CodebookShape(**book) for book in fields["codebooks"])
        return TableLayout(embedding_dim=fields["embedding_dim"], codebooks=books)
    except TypeError as error:
        raise ConfigError(f"expected the layout of an item table, found {error}") from error
