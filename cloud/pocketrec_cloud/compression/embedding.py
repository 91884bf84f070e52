# SPDX-License-Identifier: Apache-2.0
"""An item table of codebooks that stands where a backbone has ``nn.Embedding``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.errors import ConfigError
from pocketrec_cloud.compression.fake_quantization import as_quantized, quantize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pocketrec_cloud.compression.layout import CodebookShape, TableLayout

__all__ = ["CodebookEmbedding", "QuantizedRows"]

QuantizedRows = tuple["NDArray[np.int8]", "NDArray[np.float32]"]
"""A codebook's codes (K, W) and scales (K,) or (1,)."""


class CodebookEmbedding(nn.Module):
    """Embeddings of V items as sums of codebook rows, rounded as a device will have them.

    The rows are trained; which rows an item has stays. Training sees codes times scales,
    with straight-through gradients, so that nothing changes when the table is shipped.

    Args:
        layout: Shapes of the codebooks.
        row_of_item: (V + 1, M) integers; entry 0 is 0, for padding.
        rows: What the codebooks start from, (K, W) float each, row 0 zero; zeros when
            left out.

    Raises:
        ConfigError: Rows or row numbers do not fit the layout.
    """

    row_of_item: Tensor

    def __init__(
        self,
        layout: TableLayout,
        row_of_item: NDArray[np.integer],
        rows: Sequence[NDArray[np.floating]] | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("row_of_item", torch.from_numpy(row_of_item.astype(np.int32)))
        self.check()
        self.rows = nn.ParameterList(
            nn.Parameter(torch.zeros(book.n_rows, book.width)) for book in layout.codebooks
        )
        if rows is not None:
            self._start_from(rows)

    @classmethod
    def empty(cls, layout: TableLayout, n_items: int) -> CodebookEmbedding:
        """Return a table of zeros, for a checkpoint to be read into.

        Args:
            layout: Shapes of the codebooks.
            n_items: V.
        """
        return cls(layout, np.zeros((n_items + 1, len(layout.codebooks)), np.int32))

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        return int(self.row_of_item.shape[0]) - 1

    @property
    def weight(self) -> Tensor:
        """All embeddings, (V + 1, D) float32, made anew each time; row 0 is zero."""
        return self._sum_rows(self.row_of_item.long())

    def forward(self, items: Tensor) -> Tensor:
        """Look up embeddings.

        Args:
            items: (...) int64, 0..V.

        Returns:
            (..., D) float32.
        """
        return self._sum_rows(self.row_of_item[items].long())

    def multiply_(self, factor: float) -> None:
        """Multiply all embeddings; codes stay, scales take the factor."""
        with torch.no_grad():
            for book, rows in zip(self.layout.codebooks, self.rows, strict=True):
                rows.copy_(_as_quantized(rows, book) * factor)

    def quantized_rows(self) -> list[QuantizedRows]:
        """Return each codebook's codes and scales, which is what training saw."""
        quantized: list[QuantizedRows] = []
        for book, rows in zip(self.layout.codebooks, self.rows, strict=True):
            codes, scales = quantize(rows, book.bits, has_row_scales=book.has_row_scales)
            quantized.append((codes.cpu().numpy().astype(np.int8), scales.cpu().numpy()))
        return quantized

    def check(self) -> None:
        """Refuse row numbers that the layout has no rows for, such as a damaged file's.

        Raises:
            ConfigError: There are some.
        """
        numbers = self.row_of_item.cpu().numpy()
        n_rows = np.array([book.n_rows for book in self.layout.codebooks])
        if numbers.ndim != 2 or numbers.shape[1] != len(n_rows) or len(numbers) < 2:
            raise ConfigError(
                f"row_of_item: expected (V + 1, {len(n_rows)}), found {numbers.shape}"
            )
        if numbers[0].any() or (numbers < 0).any() or (numbers >= n_rows).any():
            raise ConfigError("row_of_item: expected zeros for padding, and rows that exist")

    def _sum_rows(self, numbers: Tensor) -> Tensor:
        """Return (..., D) for row numbers (..., M)."""
        books = self.layout.codebooks
        found = [
            functional.embedding(numbers[..., m], _as_quantized(rows, book), padding_idx=0)
            for m, (book, rows) in enumerate(zip(books, self.rows, strict=True))
        ]
        if _follow_each_other(self.layout):
            return torch.cat(found, dim=-1)
        dim = self.layout.embedding_dim
        total = functional.pad(found[0], (books[0].begin, dim - books[0].end))
        for book, part in zip(books[1:], found[1:], strict=True):
            total = total + functional.pad(part, (book.begin, dim - book.end))
        return total

    def _start_from(self, rows: Sequence[NDArray[np.floating]]) -> None:
        for book, parameter, given in zip(self.layout.codebooks, self.rows, rows, strict=True):
            if given.shape != (book.n_rows, book.width) or given[0].any():
                raise ConfigError(
                    f"rows: expected ({book.n_rows}, {book.width}), the first of them zero, "
                    f"found {given.shape}"
                )
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(np.asarray(given, np.float32)))


def _as_quantized(rows: Tensor, book: CodebookShape) -> Tensor:
    return as_quantized(rows, book.bits, has_row_scales=book.has_row_scales)


def _follow_each_other(layout: TableLayout) -> bool:
    """Return whether every column is in one codebook, in order."""
    begins = [book.begin for book in layout.codebooks]
    ends = [book.end for book in layout.codebooks]
    return begins == [0, *ends[:-1]]
