# SPDX-License-Identifier: Apache-2.0
"""What a model card says of the item table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketrec_quantization.item_table import ItemTable

__all__ = ["table_facts"]


def table_facts(items: ItemTable) -> dict[str, object]:
    """Return an item table's entry of the model card.

    Args:
        items: Of the bundle.

    Returns:
        Version, items, codebooks, and bytes: ``memory_bytes`` of codes, scales and row
        numbers, ``float_bytes`` of the same embeddings in float32, ``id_bytes`` of ids.
    """
    return {
        "version": items.version,
        "n_items": items.n_items,
        "codebooks": [
            {
                "n_rows": codebook.n_rows,
                "bits": codebook.bits,
                "begin": codebook.begin,
                "width": codebook.width,
            }
            for codebook in items.codebooks
        ],
        "memory_bytes": items.embedding_bytes,
        "float_bytes": 4 * (items.n_items + 1) * items.embedding_dim,
        "id_bytes": items.id_bytes,
    }
