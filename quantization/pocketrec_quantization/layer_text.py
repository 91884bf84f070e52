# SPDX-License-Identifier: Apache-2.0
"""A layer table as one line of text, for the metadata of array files.

``name:C:N`` of every layer, separated by commas, such as ``blocks.0.q:64:64``.
"""

from __future__ import annotations

from pocketrec.errors import ConfigError
from pocketrec_quantization.layers import LayerShape, LayerTable, check_layers

__all__ = ["layers_from_text", "layers_to_text"]


def layers_to_text(layers: LayerTable) -> str:
    """Write a table.

    Args:
        layers: Whose names hold no comma or colon, as no name does.
    """
    return ",".join(f"{layer.name}:{layer.n_channels}:{layer.n_elements}" for layer in layers)


def layers_from_text(text: str) -> LayerTable:
    """Read what :func:`layers_to_text` wrote.

    Raises:
        ConfigError: The text is no such line, or the table is none.
    """
    layers = []
    for entry in text.split(","):
        name, *sizes = entry.split(":")
        if len(sizes) != 2 or not all(size.isascii() and size.isdigit() for size in sizes):
            raise ConfigError(f"layers: expected name:channels:elements, got {entry!r:.80}")
        layers.append(LayerShape(name, int(sizes[0]), int(sizes[1])))
    table = tuple(layers)
    check_layers(table)
    return table
