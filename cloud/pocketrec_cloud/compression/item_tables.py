# SPDX-License-Identifier: Apache-2.0
"""The item table that a device gets of a backbone, whatever the backbone looks items up in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_quantization.codebook import Codebook
from pocketrec_quantization.item_table import ItemTable

if TYPE_CHECKING:
    from pocketrec_cloud.backbones.base import ItemEmbedding

__all__ = ["item_table"]


def item_table(embedding: ItemEmbedding, item_ids: tuple[str, ...], version: int) -> ItemTable:
    """Return what is looked up on devices.

    Of codebooks it has the codes and scales that training saw; of a float table, each row
    is quantized to 8 bits.

    Args:
        embedding: Of a backbone in device form.
        item_ids: V external ids in the order of the item indices.
        version: Of the new table.

    Raises:
        ConfigError: There is not one id per item.
        QuantizationError: An embedding is not finite.
    """
    if not isinstance(embedding, CodebookEmbedding):
        weight = np.ascontiguousarray(embedding.weight.detach().numpy())
        return ItemTable.from_embeddings(weight, item_ids, version)
    codebooks = tuple(
        Codebook(codes=codes, scales=scales, bits=book.bits, begin=book.begin)
        for book, (codes, scales) in zip(
            embedding.layout.codebooks, embedding.quantized_rows(), strict=True
        )
    )
    numbers = embedding.row_of_item.numpy()
    return ItemTable(codebooks=codebooks, row_of_item=numbers, item_ids=item_ids, version=version)
