# SPDX-License-Identifier: Apache-2.0
"""Weights of users and items: how much each adds to the volume of its co-cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.choices import read_choice

__all__ = ["WeightScheme", "Weighting", "read_schemes"]


class WeightScheme(StrEnum):
    """What a weight is before it is divided by the norm, for degree d.

    All but the last are divided by the square root of their sum; ``DEGREE_PER_NODE`` by the
    square root of the number of nodes.
    """

    UNIFORM = "uniform"
    DEGREE = "degree"
    SQRT = "sqrt"
    LOG = "log"
    DEGREE_PER_NODE = "degree_per_node"


_FUNCTIONS: dict[WeightScheme, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    WeightScheme.UNIFORM: np.ones_like,
    WeightScheme.DEGREE: np.asarray,
    WeightScheme.SQRT: np.sqrt,
    WeightScheme.LOG: np.log1p,
    WeightScheme.DEGREE_PER_NODE: np.asarray,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighting:
    """A scheme with the norm of one side of one graph.

    Attributes:
        scheme: What depends on the degree.
        norm: What it is divided by.

    Source:
        BACO (arXiv 2604.18351): f(d) / sqrt(sum of f(d)); its published resolutions go with
        d / sqrt(V) for items.
    """

    scheme: WeightScheme
    norm: float

    @classmethod
    def of(cls, degrees: NDArray[np.float64], scheme: WeightScheme) -> Weighting:
        """Return the weighting of a side.

        Args:
            degrees: (N,) float64, of every node of that side.
            scheme: What depends on the degree.
        """
        values = _FUNCTIONS[scheme](degrees)
        total = degrees.size if scheme is WeightScheme.DEGREE_PER_NODE else float(values.sum())
        return cls(scheme=scheme, norm=float(np.sqrt(total)))

    def weights(self, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weights of nodes, of this graph or later ones.

        Args:
            degrees: (N,) float64.
        """
        return _FUNCTIONS[self.scheme](degrees) / self.norm


def read_schemes(names: Any, field: str) -> tuple[WeightScheme, WeightScheme]:
    """Return the schemes of users and items.

    Args:
        names: One name for both, or a pair.
        field: What the caller calls it.

    Raises:
        ConfigError: There is no such scheme, or it is no pair.
    """
    pair = names if isinstance(names, tuple | list) else (names, names)
    if len(pair) != 2:
        raise ConfigError(f"{field}: expected one scheme, or users' and items', got {names!r}")
    return read_choice(WeightScheme, pair[0], field), read_choice(WeightScheme, pair[1], field)
