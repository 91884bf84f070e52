# SPDX-License-Identifier: Apache-2.0
"""What held-out users would gain if the plan were better, predicted and measured.

To *measure* is to run the better plan for every user. To *predict* is to run it for a sample,
and to carry what is found there over to the others. Users' states are known under the plan and
under the best one, 8 bits everywhere; those of a better plan are taken to lie on the straight
line between, at the share r of the squared error that the sample has left::

    h = h_plan + (1 - sqrt(r)) (h_best - h_plan)

The catalogue is ranked by that for every user, without running the model. What that gains,
user by user, is fitted to what the sample really gains, and the fit stands for everybody else:
the regression estimator of survey sampling.

Source: the line is our choice; Cochran, *Sampling Techniques* (1977), chapter 7, for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.metrics import Interval, bootstrap_mean, paired_bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.debugging.standings import Catalogue, Standings

__all__ = ["Users", "WhatIf", "squared_error"]

_Z_95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What changes for held-out users, with 95 % intervals.

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
        self, catalogue: Catalogue, planned: NDArray[np.float32], best: NDArray[np.float32]
    ) -> None:
        self._catalogue = catalogue
        self.planned = planned
        self.best = best
        self._everybody = np.arange(len(planned))
        self._planned = catalogue.rank(planned, self._everybody)
        self._best = catalogue.rank(best, self._everybody)
        self._planned_overlap = self._planned.overlap(self._best)

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
        return bootstrap_mean(self._planned_overlap)

    def error(self, rows: NDArray[np.intp]) -> float:
        """Return the squared error of some users' states under the plan; see below."""
        return squared_error(self.planned[rows], self.best[rows])

    def predict(self, states: NDArray[np.float32], rows: NDArray[np.intp], left: float) -> WhatIf:
        """Return what a better plan is predicted to change.

        Args:
            states: (n, D) float32, under the better plan, of a sample.
            rows: (n,) integer, who the sample is.
            left: r, the share of the plan's squared error that it has left.
        """
        towards = np.float32(1 - np.sqrt(left))
        line = self.planned + towards * (self.best - self.planned)
        guessed = self._changes(self._catalogue.rank(line, self._everybody), self._everybody)
        found = self._changes(self._catalogue.rank(states, rows), rows)
        ndcg, overlap = (_estimate(*pair, rows) for pair in zip(guessed, found, strict=True))
        return WhatIf(ndcg=ndcg, overlap=overlap)

    def measure(self, states: NDArray[np.float32]) -> WhatIf:
        """Return what changes with other states.

        Args:
            states: (U, D) float32, one per user.
        """
        standings = self._catalogue.rank(states, self._everybody)
        overlap = standings.overlap(self._best)
        return WhatIf(
            ndcg=paired_bootstrap(standings.ndcg, self._planned.ndcg),
            overlap=paired_bootstrap(overlap, self._planned_overlap),
        )

    def _changes(
        self, standings: Standings, rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the change of NDCG and overlap for each of some users."""
        overlap = standings.overlap(self._best.of(rows))
        return standings.ndcg - self._planned.ndcg[rows], overlap - self._planned_overlap[rows]


def squared_error(states: NDArray[np.float32], best: NDArray[np.float32]) -> float:
    """Return the squared L2 error of states, (U, D) each, relative to the best ones.

    States of zeros have no relative error: 0.
    """
    power = float((best.astype(np.float64) ** 2).sum())
    error = float(((states.astype(np.float64) - best) ** 2).sum())
    return error / power if power else 0.0


def _estimate(
    guessed: NDArray[np.float64], found: NDArray[np.float64], rows: NDArray[np.intp]
) -> Interval:
    """Return the mean of what only a sample shows, with the help of a guess for everybody.

    Args:
        guessed: (U,) float64.
        found: (n,) float64, of the sample.
        rows: (n,) integer, who the sample is.
    """
    residual = found - guessed[rows]
    n_known, n_users = len(rows), len(guessed)
    unexplained = float(residual.var()) * (1 / n_known - 1 / n_users)
    bias = float(residual.mean())
    # The guess is corrected by what the sample finds amiss beyond what chance explains.
    trusted = max(0.0, 1 - unexplained / bias**2) if bias else 0.0
    mean = float(guessed.mean()) + trusted * bias
    # Of users like these: the spread among all of them, and what the sample leaves open.
    reach = _Z_95 * float(np.sqrt(found.var() / n_users + unexplained))
    return Interval(mean=mean, low=mean - reach, high=mean + reach)
