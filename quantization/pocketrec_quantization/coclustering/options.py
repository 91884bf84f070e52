# SPDX-License-Identifier: Apache-2.0
"""What a co-clustering is asked for, checked as a whole before any work begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.propagation import SweepReport
from pocketrec_quantization.coclustering.weighting import WeightScheme

__all__ = ["Isolated", "Method", "Options", "Sides", "default_sweeps"]


class Method(StrEnum):
    """How the objective is climbed."""

    MULTILEVEL = "multilevel"
    PROPAGATION = "propagation"


class Sides(StrEnum):
    """Which side something is about."""

    BOTH = "both"
    USERS = "users"
    ITEMS = "items"
    NONE = "none"

    @property
    def has_users(self) -> bool:
        """Whether users are meant."""
        return self in {Sides.BOTH, Sides.USERS}

    @property
    def has_items(self) -> bool:
        """Whether items are meant."""
        return self in {Sides.BOTH, Sides.ITEMS}


class Isolated(StrEnum):
    """Which rows users and items without interactions have."""

    SHARED = "shared"
    OWN = "own"


_DEFAULT_SWEEPS = {Method.MULTILEVEL: 10, Method.PROPAGATION: 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `CoClustering` was given; its documentation explains the fields.

    Raises:
        ConfigError: Fields cannot be true together, or one is out of its range.
    """

    n_rows: int | None
    n_bytes: int | None
    resolution: float | None
    row_bytes: int
    counted: Sides
    method: Method
    weights: tuple[WeightScheme, WeightScheme]
    n_sweeps: int
    tolerance: float
    block_nodes: int
    keeps_own: bool
    stop_rows: int | None
    secondary: Sides
    isolated: Isolated
    is_weighted: bool
    seed: int
    progress: Callable[[SweepReport], None] | None

    def __post_init__(self) -> None:
        wanted = {
            "n_rows": self.n_rows,
            "n_bytes": self.n_bytes,
            "resolution": self.resolution,
        }
        given = [name for name, value in wanted.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(
                f"expected exactly one of n_rows, n_bytes and resolution, got {given or 'none'}"
            )
        if self.resolution is not None and not 0 <= self.resolution < float("inf"):
            raise ConfigError(f"resolution: expected a number from 0 on, got {self.resolution!r}")
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance: expected 0 ≤ tolerance < 1, got {self.tolerance!r}")
        for name in ("n_rows", "n_bytes", "stop_rows"):
            if getattr(self, name) is not None:
                _check_count(getattr(self, name), name)
        for name in ("row_bytes", "n_sweeps", "block_nodes"):
            _check_count(getattr(self, name), name)
        _check_count(self.seed, "seed", least=0)
        if self.stop_rows is not None and self.method is Method.MULTILEVEL:
            raise ConfigError(
                "stop_rows: expected none with method multilevel, which would go on merging; "
                "ask for n_rows, or for method propagation"
            )
        if self.counted is Sides.NONE:
            raise ConfigError("counted: expected both, users or items, got none")


def default_sweeps(method: Method) -> int:
    """Return how many sweeps a method makes at most, per level."""
    return _DEFAULT_SWEEPS[method]


def _check_count(value: object, field: str, *, least: int = 1) -> None:
    """Refuse anything but a whole number, of Python or NumPy."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigError(f"{field}: expected a whole number from {least} on, got {value!r}")
