# SPDX-License-Identifier: Apache-2.0
"""Controls made from another planner: the mean of its plans, and other users' plans.

If either does as well as the planner it is made from, that planner's plans are not personal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.budget import allocate
from pocketrec_quantization.checks import check_integer, read_only
from pocketrec_quantization.layers import LayerTable, elements_per_channel
from pocketrec_quantization.levels import LevelTable
from pocketrec_quantization.planners import Planner, UserEmbeddings

__all__ = ["MeanPlanner", "ShuffledPlanner"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeanPlanner:
    """One plan for everybody: the mean of the plans that a sample of users would get.

    A channel's upgrade counts as much as the share of the sample whose plans have it, and
    the upgrades that most users share are taken until the budget is spent. Where all agree,
    it is their plan. Our choice.

    Args:
        planner: Makes the plans that are averaged.
        layers: The model's layers.
        sample: (S, D) float32, embeddings of at least one user. Never of held-out events.

    Raises:
        ConfigError: ``sample`` is not such an array.
    """

    planner: Planner
    layers: LayerTable
    sample: NDArray[np.float32]

    def __post_init__(self) -> None:
        _check_embeddings(self.sample, field="sample", minimum=1)
        object.__setattr__(self, "sample", read_only(self.sample))

    @property
    def name(self) -> str:
        """``mean-`` and the name of the planner it is made from."""
        return f"mean-{self.planner.name}"

    @property
    def levels(self) -> LevelTable:
        """Those of the planner it is made from."""
        return self.planner.levels

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make B times the same plan; see :class:`Planner`.

        Raises:
            InfeasibleBudgetError: No plan of the planner fits.
        """
        plans = self.planner.plan(self.sample, budget_bytes)
        shares = np.stack([(plans >= code).mean(axis=0) for code in (2, 3)], axis=1)
        # Weighed by bits, so that gain per byte is the share; what nobody has is never taken.
        n_bits = elements_per_channel(self.layers)[:, None] * np.diff(self.levels.bits[1:])
        gains = np.where(shares > 0, shares * n_bits, -1.0)
        codes = allocate(gains, self.layers, budget_bytes, levels=self.levels)
        return np.tile(codes, (len(user_embeddings), 1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShuffledPlanner:
    """Gives every user the plan of somebody else.

    The users of a batch exchange plans along one random cycle, so nobody keeps their own; a
    single user gets the plan of a stranger from a pool. Users with equal embeddings are
    strangers to each other all the same.

    Args:
        planner: Makes the plans that are exchanged.
        strangers: (S, D) float32, embeddings of which at least two differ.
        seed: Equal seeds exchange alike; from 0.

    Raises:
        ConfigError: ``strangers`` is not such an array, or ``seed`` is negative.
    """

    planner: Planner
    strangers: NDArray[np.float32]
    seed: int

    def __post_init__(self) -> None:
        check_integer(self.seed, field="seed")
        _check_embeddings(self.strangers, field="strangers", minimum=2)
        if (self.strangers == self.strangers[0]).all():
            raise ConfigError("strangers: expected two that differ, got equal rows only")
        object.__setattr__(self, "strangers", read_only(self.strangers))

    @property
    def name(self) -> str:
        """``shuffled-`` and the name of the planner it is made from."""
        return f"shuffled-{self.planner.name}"

    @property
    def levels(self) -> LevelTable:
        """Those of the planner it is made from."""
        return self.planner.levels

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make B plans, none of them for its user; see :class:`Planner`.

        Raises:
            InfeasibleBudgetError: No plan of the planner fits.
        """
        rng = np.random.default_rng(self.seed)
        n_users = len(user_embeddings)
        if n_users == 1:
            return self.planner.plan(self._stranger_to(user_embeddings[0], rng), budget_bytes)
        cycle = rng.permutation(n_users)
        source = np.empty(n_users, np.int64)
        source[cycle] = np.roll(cycle, 1)
        return self.planner.plan(user_embeddings, budget_bytes)[source]

    def _stranger_to(
        self, user: NDArray[np.float32] | None, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw one row of the pool that is not the user's own: (1, D) float32."""
        others = self.strangers
        if user is not None:
            others = others[(others != user).any(axis=1)]
        row = int(rng.integers(len(others)))
        return others[row : row + 1]


def _check_embeddings(rows: NDArray[np.float32], *, field: str, minimum: int) -> None:
    """Refuse what is not an array (S, D) of finite float32 with enough rows."""
    is_array = rows.ndim == 2 and rows.dtype == np.float32 and np.isfinite(rows).all()
    if not is_array or len(rows) < minimum or rows.size == 0:
        raise ConfigError(
            f"{field}: expected finite float32 (S, D) of at least {minimum} users, got "
            f"{rows.dtype} of {rows.shape}"
        )
