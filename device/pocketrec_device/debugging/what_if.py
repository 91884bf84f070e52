# SPDX-License-Identifier: Apache-2.0
"""What held-out users would gain if the plan were better, predicted and measured.

Users' states are known under the plan and under the best one, 8 bits everywhere. Those of a
better plan lie between, and how far between is known from a sample of users: r is the share of
the squared error that is left there. They are *predicted* to lie on the straight line, at that
error::

    h = h_plan + (1 - sqrt(r)) (h_best - h_plan)

so the whole catalogue is ranked for every user without running the model again.

Source: our choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.metrics import Interval, bootstrap_mean, paired_bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.debugging.standings import Catalogue

__all__ = ["Users", "WhatIf", "squared_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What changes for held-out users, with 95 % intervals over users.

    Attributes:
        ndcg: Change of NDCG@10.
        overlap: Change of the share of the first 10 items that the best plan lists too.
    """

    ndcg: Interval
    overlap: Interval


class Users:
    """All held-out users, under a plan and under the best one.

    Args:
        catalogue: What is ranked for them.
        planned: (U, D) float32, their states under the plan.
        best: (U, D) float32, at 8 bits everywhere.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        planned: NDArray[np.float32],
        best: NDArray[np.float32],
    ) -> None:
        self._catalogue = catalogue
        self.planned = planned
        self.best = best
        self._planned = catalogue.rank(planned)
        self._best = catalogue.rank(best)

    @property
    def ndcg(self) -> Interval:
        """NDCG@10 under the plan."""
        return bootstrap_mean(self._planned.ndcg)

    @property
    def ndcg_best(self) -> Interval:
        """NDCG@10 at 8 bits everywhere."""
        return bootstrap_mean(self._best.ndcg)

    @property
    def overlap(self) -> Interval:
        """Share of the first 10 items under the plan that the best one lists too."""
        return bootstrap_mean(self._planned.overlap(self._best))

    def predict(self, left: float) -> WhatIf:
        """Return what changes when only some of the plan's squared error is left.

        Args:
            left: r, that share; above 1 the error grows.
        """
        towards = np.float32(1 - np.sqrt(left))
        return self.measure(self.planned + towards * (self.best - self.planned))

    def measure(self, states: NDArray[np.float32]) -> WhatIf:
        """Return what changes with other states.

        Args:
            states: (U, D) float32.
        """
        standings = self._catalogue.rank(states)
        return WhatIf(
            ndcg=paired_bootstrap(standings.ndcg, self._planned.ndcg),
            overlap=paired_bootstrap(
                standings.overlap(self._best), self._planned.overlap(self._best)
            ),
        )


def squared_error(states: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Return the squared L2 error of states, (U, D) each, relative to the exact ones.

    States of zeros have no relative error: 0.
    """
    power = float((exact.astype(np.float64) ** 2).sum())
    error = float(((states.astype(np.float64) - exact) ** 2).sum())
    return error / power if power else 0.0
