# SPDX-License-Identifier: Apache-2.0
"""Which codebook rows an entity's vector is made of, and what that costs in bytes.

An assignment has M slots. Slot m names a codebook and, per entity, a row of it; the vector
is the weighted sum of the rows, each in the columns that its codebook covers. One slot with
a row of one's own is a full table; two slots into one codebook at weights of a half are a
primary and a secondary cluster; codebooks over disjoint columns are product quantization.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CodebookShape", "Mixing", "RowAssignment", "smallest_width"]

_FLOAT_BITS = 32
_SCALE_BYTES = 4
_MIXING_BYTES = 2  # float16 is far finer than a mixing weight needs


class Mixing(StrEnum):
    """Where the weights of slots come from."""

    FIXED = "fixed"
    SLOT = "slot"
    """One learned weight per slot."""
    ENTITY = "entity"
    """One learned weight per entity and slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookShape:
    """Rows and columns of one codebook.

    Attributes:
        n_rows: K.
        begin: First column that it covers.
        width: How many columns it covers.

    Raises:
        ConfigError: There is no row or no column.
    """

    n_rows: int
    begin: int
    width: int

    def __post_init__(self) -> None:
        """Check that there is something in it."""
        if self.n_rows < 1 or self.width < 1 or self.begin < 0:
            raise ConfigError(f"expected rows and columns from 0 on, found {self}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowAssignment:
    """Rows per entity.

    Attributes:
        rows: (N, M) int64, the row of each slot.
        codebooks: Their shapes.
        codebook_of: The codebook of each slot.
        weights: The weight of each slot; where it is learned, the first value.
        mixing: Which weights are learned.

    Raises:
        ConfigError: A row or codebook does not exist, or lengths differ.
    """

    rows: NDArray[np.int64]
    codebooks: tuple[CodebookShape, ...]
    codebook_of: tuple[int, ...]
    weights: tuple[float, ...]
    mixing: Mixing = Mixing.FIXED

    def __post_init__(self) -> None:
        """Check that every row exists."""
        n_slots = self.rows.shape[1] if self.rows.ndim == 2 else -1
        if not (n_slots == len(self.codebook_of) == len(self.weights)):
            raise ConfigError(
                f"expected rows, codebooks and weights of equally many slots, found "
                f"{self.rows.shape}, {len(self.codebook_of)} and {len(self.weights)}"
            )
        for slot, number in enumerate(self.codebook_of):
            if not 0 <= number < len(self.codebooks):
                raise ConfigError(f"expected a codebook for slot {slot}, found number {number}")
            rows = self.rows[:, slot]
            limit = self.codebooks[number].n_rows
            if rows.size and (rows.min() < 0 or rows.max() >= limit):
                raise ConfigError(f"expected rows below {limit} in slot {slot}, found {rows.max()}")

    @classmethod
    def full(cls, n_entities: int, width: int) -> RowAssignment:
        """Return a table in which every entity has a row of its own.

        Args:
            n_entities: N.
            width: D.
        """
        return cls.shared(np.arange(n_entities), width=width)

    @classmethod
    def shared(
        cls,
        labels: NDArray[np.integer],
        *,
        width: int,
        secondary: NDArray[np.integer] | None = None,
        mixing: Mixing = Mixing.FIXED,
    ) -> RowAssignment:
        """Return one codebook over all columns, with a row per label.

        Args:
            labels: (N,) integer, from 0.
            width: D.
            secondary: (N,) integer; if given, a vector is the mean of both rows.
            mixing: Which weights are learned.
        """
        slots = [labels] if secondary is None else [labels, secondary]
        rows = np.stack(slots, axis=1).astype(np.int64)
        n_rows = int(rows.max()) + 1
        return cls(
            rows=rows,
            codebooks=(CodebookShape(n_rows=n_rows, begin=0, width=width),),
            codebook_of=(0,) * len(slots),
            weights=(1 / len(slots),) * len(slots),
            mixing=mixing,
        )

    @property
    def n_entities(self) -> int:
        """N."""
        return int(self.rows.shape[0])

    @property
    def width(self) -> int:
        """D, the columns covered."""
        return max(shape.begin + shape.width for shape in self.codebooks)

    @property
    def n_rows(self) -> int:
        """Rows over all codebooks."""
        return sum(shape.n_rows for shape in self.codebooks)

    def embedding_bytes(self, bits: int = _FLOAT_BITS) -> int:
        """Return bytes of codes, scales, row numbers and learned weights.

        Scales are float32, one per row, where codes are narrower than 32 bits. Row numbers
        have 1, 2 or 4 bytes, whichever suffices, and none where every entity has the row of
        its own number. Weights per entity are float16.

        Args:
            bits: Of a code.
        """
        codes = sum(shape.n_rows * (-(-shape.width * bits // 8)) for shape in self.codebooks)
        scales = 0 if bits == _FLOAT_BITS else self.n_rows * _SCALE_BYTES
        numbers = sum(
            self.n_entities * smallest_width(self.codebooks[number].n_rows)
            for slot, number in enumerate(self.codebook_of)
            if not np.array_equal(self.rows[:, slot], np.arange(self.n_entities))
        )
        per_entity = self.rows.size if self.mixing is Mixing.ENTITY else 0
        return codes + scales + numbers + per_entity * _MIXING_BYTES


def smallest_width(n_rows: int) -> int:
    """Return the bytes of an unsigned number below ``n_rows``: 1, 2 or 4."""
    return 1 if n_rows <= 2**8 else 2 if n_rows <= 2**16 else 4
