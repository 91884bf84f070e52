# SPDX-License-Identifier: Apache-2.0
"""Which row of each codebook an item has, in the smallest integers that hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import read_only

__all__ = ["RowNumbers", "number_type", "read_row_numbers"]

RowNumbers: TypeAlias = tuple[NDArray[np.integer] | None, ...]
"""Per codebook (V + 1,) of ``number_type``, or None where item i has row i."""


def number_type(n_rows: int) -> type[np.uint8 | np.uint16 | np.int32]:
    """Return the smallest type that numbers ``n_rows`` rows."""
    if n_rows <= 2**8:
        return np.uint8
    return np.uint16 if n_rows <= 2**16 else np.int32


def read_row_numbers(
    given: NDArray[np.integer] | Sequence[NDArray[np.integer] | None],
    n_rows: Sequence[int],
    n_items: int,
) -> RowNumbers:
    """Check and narrow row numbers.

    Args:
        given: (V + 1, M) integers, or (V + 1,) for one codebook, or M arrays of (V + 1,),
            each of which may be None where item i has row i. Entry 0 is 0; in the first
            codebook the others are not.
        n_rows: K of each codebook.
        n_items: V.

    Raises:
        ConfigError: They do not fit the codebooks or the items.
    """
    columns = _columns(given)
    if len(columns) != len(n_rows):
        raise ConfigError(
            f"row_of_item: expected a column for each of {len(n_rows)} codebooks, got "
            f"{len(columns)}"
        )
    return tuple(
        _narrowed(column, k, n_items, minimum=0 if number else 1)
        for number, (column, k) in enumerate(zip(columns, n_rows, strict=True))
    )


def _columns(
    given: NDArray[np.integer] | Sequence[NDArray[np.integer] | None],
) -> Sequence[NDArray[np.integer] | None]:
    if not isinstance(given, np.ndarray):
        return given
    if given.ndim not in {1, 2}:
        raise ConfigError(f"row_of_item: expected (V + 1, M), got {given.shape}")
    return list(given.T) if given.ndim == 2 else [given]


def _narrowed(
    column: NDArray[np.integer] | None, n_rows: int, n_items: int, *, minimum: int
) -> NDArray[np.integer] | None:
    if column is None:
        if n_rows != n_items + 1:
            raise ConfigError(
                f"row_of_item: expected row numbers for {n_items} items over {n_rows} rows"
            )
        return None
    if column.dtype.kind not in "iu" or column.shape != (n_items + 1,):
        raise ConfigError(
            f"row_of_item: expected ({n_items + 1},) integers for {n_items} ids, got "
            f"{column.dtype} of {column.shape}"
        )
    used = column[1:]
    if column[0] != 0 or not minimum <= used.min() <= used.max() < n_rows:
        raise ConfigError(
            f"row_of_item: expected 0 for padding and {minimum}..{n_rows - 1} for items"
        )
    if n_rows == n_items + 1 and np.array_equal(column, np.arange(n_rows)):
        return None
    return read_only(np.ascontiguousarray(column, number_type(n_rows)))
