# SPDX-License-Identifier: Apache-2.0
"""A planner that plans for several callers in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec_cloud.coalescing import Coalescer
from pocketrec_quantization.levels import LevelTable
from pocketrec_quantization.planners import Planner, UserEmbeddings

__all__ = ["DEFAULT_MAX_BATCH", "BatchingPlanner"]

DEFAULT_MAX_BATCH = 64
"""Users in one call."""

_Request: TypeAlias = tuple[UserEmbeddings, int]


class BatchingPlanner:
    """A planner whose calls meet; safe to share between threads.

    Args:
        planner: Makes the plans. What it gives a user must not depend on who else is in the
            call, as it does with ``RandomPlanner``.
        max_batch: Most users in one call; a caller's own users stay together.

    Raises:
        ConfigError: ``max_batch`` is below 1.
    """

    def __init__(self, planner: Planner, *, max_batch: int = DEFAULT_MAX_BATCH) -> None:
        self._planner = planner
        self._calls: Coalescer[_Request, NDArray[np.uint8]] = Coalescer(
            self._plan_all,
            kind=lambda request: request[1],
            size=lambda request: len(request[0]),
            max_size=max_batch,
        )

    @property
    def name(self) -> str:
        """Name that plans carry."""
        return self._planner.name

    @property
    def levels(self) -> LevelTable:
        """What the tiers of its plans mean in bits."""
        return self._planner.levels

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make plans, in one call with those of others who ask for the same budget.

        Args:
            user_embeddings: B rows.
            budget_bytes: Upper bound of each plan's coded bytes, scales included.

        Returns:
            (B, C_total) uint8, codes 1..3.

        Raises:
            PocketRecError: What the planner raises for these users alone.
        """
        return self._calls.ask((user_embeddings, budget_bytes))

    def _plan_all(self, requests: list[_Request]) -> Sequence[NDArray[np.uint8]]:
        users = [row for user_embeddings, _ in requests for row in user_embeddings]
        codes = self._planner.plan(users, requests[0][1])
        ends = np.cumsum([len(user_embeddings) for user_embeddings, _ in requests])
        return np.split(codes, ends[:-1])
