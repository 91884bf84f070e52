# SPDX-License-Identifier: Apache-2.0
"""Names that whoever writes a graph and whoever runs it agree on; ``docs/format.md`` §7.4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GRAPH_CONTRACT",
    "GRAPH_CONTRACT_KEY",
    "stack_weights",
    "stacked_layers",
    "stacked_name",
]

GRAPH_CONTRACT_KEY = "pocketrec.graphs"
"""Metadata entry of a graph that says which contract it keeps."""

GRAPH_CONTRACT = "2"
"""The contract of this release."""

_PREFIX = "weights/"
_SEPARATOR = "+"


def stacked_name(layers: Sequence[str]) -> str:
    """Return the name of the graph input that takes the stacked weights of ``layers``."""
    return _PREFIX + _SEPARATOR.join(layers)


def stacked_layers(name: str) -> tuple[str, ...]:
    """Return the layers that a graph input stacks; none if it takes no weights."""
    if not name.startswith(_PREFIX):
        return ()
    return tuple(name.removeprefix(_PREFIX).split(_SEPARATOR))


def stack_weights(name: str, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what a graph input takes: (N, C) float32, C over all its layers.

    Args:
        name: Of the input, as ``stacked_name`` makes it.
        weights: ``"<layer>.weight"`` to (C_l, N) float32.

    Raises:
        KeyError: A layer has no weights.
    """
    rows = [weights[f"{layer}.weight"] for layer in stacked_layers(name)]
    stacked = np.concatenate(rows) if len(rows) > 1 else rows[0]
    return np.ascontiguousarray(stacked.T)
