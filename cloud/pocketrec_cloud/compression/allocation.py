# SPDX-License-Identifier: Apache-2.0
"""From a budget in rows or bytes to the layout of an item table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_cloud.compression.layout import CodebookShape, TableLayout

__all__ = [
    "LAYOUTS",
    "Budget",
    "float_bytes",
    "lay_out",
    "plain",
    "product",
    "residual",
    "rows",
    "shared",
]

_PRODUCT_ROWS = (256, 128, 64, 32, 16)
"""Rows of a product's codebooks; 256 are all that a byte numbers."""

_SHARED_ROWS = 256
"""Rows that residuals are taken from."""

_NEARLY = 0.9
"""Of the most bits that an item's row numbers can have: from there on more rows are worth more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a table may weigh.

    Attributes:
        n_items: V.
        embedding_dim: D.
        max_bytes: Codes, scales and row numbers, padding included.

    Raises:
        ConfigError: A number is below 1.
    """

    n_items: int
    embedding_dim: int
    max_bytes: int

    def __post_init__(self) -> None:
        if min(self.n_items, self.embedding_dim, self.max_bytes) < 1:
            raise ConfigError(f"expected every number to be at least 1, found {self}")

    def holds(self, layout: TableLayout) -> bool:
        """Return whether a layout is within the budget."""
        return layout.n_bytes(self.n_items) <= self.max_bytes


def float_bytes(n_items: int, embedding_dim: int) -> int:
    """Return the bytes of a float32 table, padding included."""
    return 4 * (n_items + 1) * embedding_dim


def rows(n_rows: int, embedding_dim: int, bits: int) -> TableLayout:
    """Return one codebook of whole rows that items share, each with its scale.

    Args:
        n_rows: Padding not counted.
        embedding_dim: D.
        bits: 8 or 4.
    """
    book = CodebookShape(n_rows=n_rows + 1, width=embedding_dim, bits=bits, has_row_scales=True)
    return TableLayout(embedding_dim=embedding_dim, codebooks=(book,))


def plain(budget: Budget, bits: int) -> TableLayout:
    """Return one row for each item.

    Raises:
        InfeasibleBudgetError: They do not fit.
    """
    return _within(budget, [rows(budget.n_items, budget.embedding_dim, bits)])


def shared(budget: Budget, bits: int) -> TableLayout:
    """Return as many shared rows as fit.

    Raises:
        InfeasibleBudgetError: Not one does.
    """
    full = rows(budget.n_items, budget.embedding_dim, bits)
    if budget.holds(full):
        return full
    low, high = 0, budget.n_items  # the largest number that fits is low, or in between
    while high - low > 1:
        middle = (low + high) // 2
        fits = budget.holds(rows(middle, budget.embedding_dim, bits))
        low, high = (middle, high) if fits else (low, middle)
    return _within(budget, [rows(max(low, 1), budget.embedding_dim, bits)])


def product(budget: Budget, bits: int) -> TableLayout:
    """Return codebooks side by side, so that items can differ in as many ways as possible.

    An item chooses one row in each. Of all numbers of codebooks and rows that fit, those
    are nearly enough whose logarithm of combinations is 90 % of the most; of these, the one
    with the most rows to a codebook.

    Raises:
        InfeasibleBudgetError: Not one codebook of 16 rows fits.

    Source:
        Our choice: wide codebooks of many rows follow the embeddings closer than narrow ones
        of few.
    """
    return _widest(budget, list(_products(budget, bits, before=())))


def residual(budget: Budget, bits: int) -> TableLayout:
    """Return shared rows, and a product for what is left of each item.

    Raises:
        InfeasibleBudgetError: They do not fit.
    """
    first = CodebookShape(
        n_rows=min(_SHARED_ROWS, budget.n_items + 1),
        width=budget.embedding_dim,
        bits=bits,
        has_row_scales=True,
    )
    return _widest(budget, list(_products(budget, bits, before=(first,))))


LAYOUTS: Mapping[str, Callable[[Budget, int], TableLayout]] = {
    "plain": plain,
    "shared": shared,
    "product": product,
    "residual": residual,
}
"""How a table may be laid out, by name."""


def lay_out(name: str, budget: Budget, bits: int) -> TableLayout:
    """Return the largest layout of a kind within a budget.

    Args:
        name: One of ``LAYOUTS``.
        budget: What the table may weigh.
        bits: Of codes: 8 or 4.

    Raises:
        ConfigError: There is no such layout or width.
        InfeasibleBudgetError: The smallest one is above the budget.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"layout: expected one of {sorted(LAYOUTS)}, found {name!r}")
    return LAYOUTS[name](budget, bits)


def _products(
    budget: Budget, bits: int, before: tuple[CodebookShape, ...]
) -> Iterable[TableLayout]:
    """Return products, those with the most combinations first."""
    step = 8 // bits  # columns that share a byte
    n_most = -(-budget.embedding_dim // step)
    sizes = [(n, k) for n in range(1, n_most + 1) for k in _PRODUCT_ROWS if k <= budget.n_items]
    sizes.sort(key=lambda size: (-size[0] * (size[1] - 1).bit_length(), size[0]))
    for n_books, n_rows in sizes:
        books = tuple(
            CodebookShape(n_rows=n_rows, begin=begin, width=width, bits=bits)
            for begin, width in _stretches(budget.embedding_dim, n_books, step)
        )
        yield TableLayout(embedding_dim=budget.embedding_dim, codebooks=before + books)


def _widest(budget: Budget, products: Sequence[TableLayout]) -> TableLayout:
    """Return what has the most rows among those with nearly the most combinations."""
    enough = _NEARLY * _number_bits(_within(budget, products))
    fitting = [
        layout for layout in products if budget.holds(layout) and _number_bits(layout) >= enough
    ]
    return max(fitting, key=lambda layout: layout.codebooks[-1].n_rows)


def _number_bits(layout: TableLayout) -> int:
    """Return the bits that tell an item's rows."""
    return sum((book.n_rows - 1).bit_length() for book in layout.codebooks)


def _stretches(n_columns: int, n_books: int, step: int) -> list[tuple[int, int]]:
    """Divide columns evenly among codebooks, in multiples of ``step`` where it goes."""
    n_steps = -(-n_columns // step)
    bounds = [min(n_columns, step * (number * n_steps // n_books)) for number in range(n_books + 1)]
    return [(begin, end - begin) for begin, end in itertools.pairwise(bounds)]


def _within(budget: Budget, layouts: Iterable[TableLayout]) -> TableLayout:
    sizes = []
    for layout in layouts:
        if budget.holds(layout):
            return layout
        sizes.append(layout.n_bytes(budget.n_items))
    smallest = min(sizes, default=0)
    raise InfeasibleBudgetError(
        f"expected a budget of at least {smallest} bytes for {budget.n_items} items of "
        f"{budget.embedding_dim} columns in this layout, found {budget.max_bytes}: raise it, or "
        "take another layout",
        requested_bytes=budget.max_bytes,
        minimum_bytes=smallest,
    )
