# SPDX-License-Identifier: Apache-2.0
"""Where codes come from: planners turn user embeddings and a budget into plans.

The planners here do not look at the user. They are the baselines and the controls
that a personal planner is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_quantization.budget import allocate, coded_bytes
from pocketrec_quantization.checks import check_integer
from pocketrec_quantization.layers import LayerTable, total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable
from pocketrec_quantization.tensors import TensorReader, write_tensors

__all__ = [
    "SENSITIVITY_KIND",
    "GlobalPlanner",
    "Planner",
    "RandomPlanner",
    "UniformPlanner",
    "UserEmbeddings",
    "named_planners",
    "sensitivity_from_bytes",
    "sensitivity_to_bytes",
]

SENSITIVITY_KIND = "pocketrec.sensitivity"
"""What a sensitivity file declares to be."""

UserEmbeddings: TypeAlias = NDArray[np.float32] | Sequence[NDArray[np.float32] | None]
"""(B, D) float32, or B rows of which some are None: nothing is known about that user."""


class Planner(Protocol):
    """Makes one plan per user."""

    @property
    def name(self) -> str:
        """Name that plans carry."""
        ...

    @property
    def levels(self) -> LevelTable:
        """What the tiers of its plans mean in bits."""
        ...

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make plans that stay within a budget.

        Args:
            user_embeddings: B rows.
            budget_bytes: Upper bound of each plan's coded bytes, scales included.

        Returns:
            (B, C_total) uint8, codes 1..3 of :attr:`levels`.

        Raises:
            InfeasibleBudgetError: No plan of this planner fits.
        """
        ...


class _DefaultLevels:
    """Plans by the default level table."""

    __slots__ = ()

    @property
    def levels(self) -> LevelTable:
        """The default table."""
        return DEFAULT_LEVELS


@dataclass(frozen=True, slots=True)
class UniformPlanner(_DefaultLevels):
    """The same width everywhere.

    Args:
        layers: The model's layers.
        bits: 2, 4 or 8.

    Raises:
        ConfigError: The default level table has no tier of ``bits``.
    """

    layers: LayerTable
    bits: int

    def __post_init__(self) -> None:
        DEFAULT_LEVELS.code_of(self.bits)

    @property
    def name(self) -> str:
        """``uniform-2``, ``uniform-4`` or ``uniform-8``."""
        return f"uniform-{self.bits}"

    @property
    def needed_bytes(self) -> int:
        """The coded bytes of every plan it makes: the smallest budget it accepts."""
        widths = np.full(total_channels(self.layers), self.bits, np.uint8)
        return coded_bytes(self.layers, widths)

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make B times the one plan there is; see :class:`Planner`.

        Raises:
            InfeasibleBudgetError: It does not fit the budget.
        """
        if budget_bytes < self.needed_bytes:
            raise InfeasibleBudgetError(
                f"{self.name} needs {self.needed_bytes} bytes, got a budget of {budget_bytes}",
                requested_bytes=budget_bytes,
                minimum_bytes=self.needed_bytes,
            )
        shape = (len(user_embeddings), total_channels(self.layers))
        return np.full(shape, DEFAULT_LEVELS.code_of(self.bits), np.uint8)


@dataclass(frozen=True, slots=True)
class RandomPlanner(_DefaultLevels):
    """Channels upgraded in a random order, another one for every row: a control.

    Args:
        layers: The model's layers.
        seed: Equal seeds make equal plans; from 0.

    Raises:
        ConfigError: ``seed`` is negative.
    """

    layers: LayerTable
    seed: int
    name: str = field(default="random", init=False)

    def __post_init__(self) -> None:
        check_integer(self.seed, field="seed")

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make B different plans; see :class:`Planner`.

        Raises:
            InfeasibleBudgetError: Not even 2 bits everywhere fit.
        """
        shape = (len(user_embeddings), total_channels(self.layers), 2)
        gains = np.random.default_rng(self.seed).random(shape)
        return _stacked([allocate(row, self.layers, budget_bytes) for row in gains], self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class GlobalPlanner(_DefaultLevels):
    """One learned plan for everybody: the widths that cost the least loss on average.

    Args:
        layers: The model's layers.
        sensitivity: (C_total, 3) float, expected loss with the channel at 2, 4 and 8 bits.

    Raises:
        ConfigError: ``sensitivity`` has another shape or is not finite.
    """

    layers: LayerTable
    sensitivity: NDArray[np.float64]
    name: str = field(default="global", init=False)

    def __post_init__(self) -> None:
        expected = (total_channels(self.layers), 3)
        if self.sensitivity.shape != expected or not np.isfinite(self.sensitivity).all():
            raise ConfigError(
                f"sensitivity: expected finite {expected}, got shape {self.sensitivity.shape}"
            )

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make B times the same plan; see :class:`Planner`.

        Raises:
            InfeasibleBudgetError: Not even 2 bits everywhere fit.
        """
        gains = -np.diff(self.sensitivity.astype(np.float64), axis=1)
        codes = allocate(gains, self.layers, budget_bytes)
        return _stacked([codes] * len(user_embeddings), self.layers)


def named_planners(
    layers: LayerTable, sensitivity: NDArray[np.float64] | None, seed: int
) -> Mapping[str, Planner]:
    """Return every planner there is for a model, by the name that its plans carry.

    Args:
        layers: The model's layers.
        sensitivity: (C_total, 3) float, for ``global``; without it there is no ``global``.
        seed: For ``random``.

    Raises:
        ConfigError: ``sensitivity`` has another shape or is not finite, or ``seed`` is
            negative.
    """
    planners: list[Planner] = [UniformPlanner(layers, bits) for bits in DEFAULT_LEVELS.bits[1:]]
    planners.append(RandomPlanner(layers, seed))
    if sensitivity is not None:
        planners.append(GlobalPlanner(layers, sensitivity))
    return MappingProxyType({planner.name: planner for planner in planners})


def sensitivity_to_bytes(sensitivity: NDArray[np.float64]) -> bytes:
    """Serialise the losses that :class:`GlobalPlanner` takes.

    Args:
        sensitivity: (C_total, 3) float.
    """
    tensors = {"sensitivity": sensitivity.astype(np.float64)}
    return write_tensors(tensors, kind=SENSITIVITY_KIND)


def sensitivity_from_bytes(data: bytes) -> NDArray[np.float64]:
    """Read what :func:`sensitivity_to_bytes` wrote: (C_total, 3) float64.

    Raises:
        MalformedArtifactError: The bytes are no sensitivity file.
        IncompatibleArtifactError: The format's major version is unknown.
    """
    reader = TensorReader(data, kind=SENSITIVITY_KIND)
    sensitivity = reader.take("sensitivity", np.float64, (None, 3))
    reader.finish()
    return sensitivity


def _stacked(rows: list[NDArray[np.uint8]], layers: LayerTable) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8).reshape(len(rows), total_channels(layers))
