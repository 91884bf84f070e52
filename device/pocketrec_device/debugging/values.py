# SPDX-License-Identifier: Apache-2.0
"""Names of what a backbone computes on the way, the same whatever computes it.

A layer's name stands for its output. Other values are called as in a bundle's graphs:
``blocks.0.mixed`` is what attention gives, ``blocks.0.wide`` follows the ReLU, ``h`` is the
user's state. Values are compared as rows: (1, T, D) is (T, D).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_quantization.backbone import BackboneConfig

__all__ = ["Call", "Tell", "as_rows", "value_names"]

_BLOCK_VALUES = (
    "attn_in",
    "q",
    "k",
    "v",
    "mixed",
    "o",
    "attended",
    "ffn_in",
    "ffn1",
    "wide",
    "ffn2",
    "out",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One call of a function, with all values that were visible.

    Attributes:
        values: Name to rows, (n, C) float64.
        operators: Name to the operator that computed it.
    """

    values: Mapping[str, NDArray[np.float64]]
    operators: Mapping[str, str]


Tell: TypeAlias = Callable[[Call], None]
"""Told every call of a backend, when it is done."""


def value_names(config: BackboneConfig) -> tuple[str, ...]:
    """Return the names of all values of a backbone, in the order of computation."""
    if config.kind == "caser":
        heights = (f"horizontal.{height}" for height in config.heights)
        filters = [f"{name}{part}" for name in heights for part in (".stretches", "", ".pooled")]
        joined = ("horizontal.strongest", "columns", "vertical", "responses", "fc", "h")
        return (*filters, *joined)
    blocks = (
        f"blocks.{block}.{name}" for block in range(config.n_blocks) for name in _BLOCK_VALUES
    )
    return (*blocks, "h")


def as_rows(value: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return (n, C) float64 for (..., C)."""
    return value.astype(np.float64).reshape(-1, value.shape[-1])
