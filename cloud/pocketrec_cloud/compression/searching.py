# SPDX-License-Identifier: Apache-2.0
"""A table of codebooks that still looks for the best rows of each item."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.fake_quantization import as_quantized

if TYPE_CHECKING:
    from pocketrec_cloud.compression.layout import TableLayout

__all__ = ["SearchingEmbedding", "can_search"]

_MOST_ROWS = 256
_ITEMS_AT_ONCE = 2**14


def can_search(layout: TableLayout, n_items: int) -> bool:
    """Return whether a search is quick enough to be repeated, and has anything to decide.

    Args:
        layout: Shapes of the codebooks.
        n_items: V.
    """
    most_rows = max(book.n_rows for book in layout.codebooks)
    return most_rows <= min(_MOST_ROWS, n_items)


class SearchingEmbedding(CodebookEmbedding):
    """Codebooks in training, and for every item the embedding that training would like.

    Lookups give the sum of an item's rows. Gradients go to the rows, and as if nothing was
    compressed to the item's wish, (V + 1, D); from time to time an item takes the rows
    nearest to its wish. Wishes are no part of a model: a checkpoint leaves them out.

    Source:
        Van den Oord et al. 2017 (VQ-VAE) for gradients past the choice; without their
        commitment loss and with rows that learn from the task are our choice.

    Args:
        table: Where to start.
        wishes: (V + 1, D) float32, such as the embeddings it was fitted to.
    """

    def __init__(self, table: CodebookEmbedding, wishes: Tensor) -> None:
        rows = [each.detach().cpu().numpy() for each in table.rows]
        super().__init__(table.layout, table.row_of_item.cpu().numpy(), rows)
        self.wishes = nn.Parameter(wishes.detach().clone())

    def forward(self, items: Tensor) -> Tensor:
        """See ``CodebookEmbedding``."""
        found = super().forward(items)
        if not torch.is_grad_enabled():
            return found
        wished = functional.embedding(items, self.wishes, padding_idx=0)
        return found + (wished - wished.detach())

    def search(self) -> None:
        """Give every item the rows nearest to its wish, one codebook after the other."""
        with torch.no_grad():
            for start in range(1, self.n_items + 1, _ITEMS_AT_ONCE):
                self._search(slice(start, start + _ITEMS_AT_ONCE))

    def _search(self, items: slice) -> None:
        left = self.wishes[items].clone()
        for place, (book, rows) in enumerate(zip(self.layout.codebooks, self.rows, strict=True)):
            rounded = as_quantized(rows, book.bits, has_row_scales=book.has_row_scales)[1:]
            columns = left[:, book.begin : book.end]
            distances = rounded.square().sum(dim=1) - 2 * (columns @ rounded.T)
            nearest = distances.argmin(dim=1)
            self.row_of_item[items, place] = (nearest + 1).to(self.row_of_item.dtype)
            columns -= rounded[nearest]
