# SPDX-License-Identifier: Apache-2.0
"""Codebooks that divide the columns evenly, read by one look-up instead of one for each.

That is what product quantization gives: M codebooks of W columns side by side. Their rows
lie below each other here, and an item's M row numbers side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.checks import read_only
from pocketrec_quantization.codebook import Codebook
from pocketrec_quantization.nibbles import unpack_nibbles
from pocketrec_quantization.row_numbers import RowNumbers

__all__ = ["Tiles"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tiles:
    """M codebooks as one.

    Args:
        codes: (K of all, W) int8, or packed (K of all, ceil(W / 2)) uint8.
        scales: (K of all,) float32.
        row_of_item: (V + 1, M), within each codebook.
        first_rows: (M,) intp, where each codebook begins.
        width: W.
    """

    codes: NDArray[np.int8] | NDArray[np.uint8]
    scales: NDArray[np.float32]
    row_of_item: NDArray[np.integer]
    first_rows: NDArray[np.intp]
    width: int

    @classmethod
    def of(cls, codebooks: Sequence[Codebook], numbers: RowNumbers) -> Tiles | None:
        """Return the tiles that codebooks are, or None where they divide nothing evenly.

        Args:
            codebooks: M of them.
            numbers: Their row numbers.
        """
        width, given = codebooks[0].width, [column for column in numbers if column is not None]
        begins = [codebook.begin for codebook in codebooks]
        is_even = (
            begins == list(range(0, len(codebooks) * width, width))
            and len({(each.width, each.bits, each.has_row_scales) for each in codebooks}) == 1
            and codebooks[0].has_row_scales
            and len(given) == len(codebooks) > 1
            and len({column.dtype for column in given}) == 1
        )
        if not is_even:
            return None
        n_rows = [codebook.n_rows for codebook in codebooks]
        return cls(
            codes=read_only(np.concatenate([each.codes for each in codebooks])),
            scales=read_only(np.concatenate([each.scales for each in codebooks])),
            row_of_item=read_only(np.stack(given, axis=1)),
            first_rows=np.cumsum([0, *n_rows[:-1]], dtype=np.intp),
            width=width,
        )

    def codebooks(self, like: Sequence[Codebook]) -> tuple[Codebook, ...]:
        """Return the codebooks again, as views of these tiles.

        Args:
            like: What they were made of.
        """
        bounds = [*self.first_rows.tolist(), len(self.codes)]
        return tuple(
            replace(each, codes=self.codes[begin:end], scales=self.scales[begin:end])
            for each, begin, end in zip(like, bounds, bounds[1:], strict=False)
        )

    def row_numbers(self) -> RowNumbers:
        """Return the row numbers of each codebook, as views of these tiles."""
        return tuple(self.row_of_item.T)

    def embeddings(self, item_indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) items."""
        rows = self.row_of_item.take(item_indices, axis=0) + self.first_rows
        found = self.codes.take(rows, axis=0)
        if found.dtype == np.uint8:
            found = unpack_nibbles(found.view(np.uint8), self.width)
        values: NDArray[np.float32] = np.multiply(
            found, self.scales.take(rows)[..., None], dtype=np.float32
        )
        return values.reshape(len(rows), len(self.first_rows) * self.width)
