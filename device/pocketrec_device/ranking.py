# SPDX-License-Identifier: Apache-2.0
"""How scores become a ranking: pure rules, the same for every backend.

* Higher scores come first; equal scores keep the order of the candidate list.
* A candidate that is listed twice counts once, where it stands first.
* A candidate the item table does not know scores ``-inf`` and comes last, in the order
  given.
* With a history, ``score = device score + server_weight * server score``. The weight is
  0 unless given: server scores live on a scale of their own, which only the app knows.
* Without a history the device has no opinion: server scores alone decide, for known and
  unknown candidates alike; without those too, the order stays as it came and every score
  is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Candidates", "Ranking", "rank"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best candidates, best first.

    Args:
        items: Item ids.
        scores: One per item, never increasing.
    """

    items: tuple[str, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """A checked candidate list without repetitions.

    Args:
        items: M item ids, each once.
        server_scores: (M,) float64, or None.
        server_weight: What a server score counts against a device score.
    """

    items: tuple[str, ...]
    server_scores: NDArray[np.float64] | None
    server_weight: float

    @classmethod
    def of(
        cls,
        items: Sequence[str],
        *,
        server_scores: Sequence[float] | None = None,
        server_weight: float = 0.0,
        excluded: frozenset[str] = frozenset(),
    ) -> Candidates:
        """Check what the caller gave; drop repetitions and ``excluded`` items.

        Raises:
            ConfigError: ``items`` is one string, scores and items differ in number, a
                score or the weight is not finite, or a weight came without scores.
        """
        if isinstance(items, str):
            raise ConfigError(f"candidates: expected a sequence of item ids, got {items!r}")
        if not math.isfinite(server_weight):
            raise ConfigError(f"server_weight: expected a finite number, got {server_weight!r}")
        if server_weight and server_scores is None:
            raise ConfigError("server_weight needs server_scores; pass both, or neither")
        kept = dict.fromkeys(items)  # in order, each once
        for item in excluded:
            kept.pop(item, None)
        scores = None
        if server_scores is not None:
            positions = dict(zip(reversed(items), range(len(items) - 1, -1, -1), strict=True))
            scores = _checked_scores(server_scores, len(items))[[positions[i] for i in kept]]
        return cls(items=tuple(kept), server_scores=scores, server_weight=server_weight)


def rank(
    candidates: Candidates,
    device_scores: NDArray[np.float64] | None,
    known: NDArray[np.bool_] | None,
    k: int,
) -> Ranking:
    """Return the k best candidates.

    Args:
        candidates: M of them.
        device_scores: (M,) float64; what stands at unknown candidates is not read. None
            without a history.
        known: (M,) bool, whether the item table has the candidate; None without a history.
        k: How many to return, from 1; more than M returns all.

    Raises:
        ConfigError: ``k`` is below 1.
    """
    if k < 1:
        raise ConfigError(f"k: expected at least 1, got {k}")
    scores = _combined(candidates, device_scores, known)
    order = np.argsort(-scores, kind="stable")[:k]
    return Ranking(
        items=tuple(candidates.items[i] for i in order),
        scores=tuple(scores[order].tolist()),
    )


def _combined(
    candidates: Candidates,
    device_scores: NDArray[np.float64] | None,
    known: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    if device_scores is None or known is None:
        if candidates.server_scores is None:
            return np.zeros(len(candidates.items))
        return candidates.server_scores
    scores = device_scores
    if candidates.server_weight and candidates.server_scores is not None:
        scores = scores + candidates.server_weight * candidates.server_scores
    return np.where(known, scores, -np.inf)


def _checked_scores(scores: Sequence[float], n_items: int) -> NDArray[np.float64]:
    array = np.asarray(scores, np.float64)
    if array.shape != (n_items,):
        raise ConfigError(
            f"server_scores: expected one number for each of {n_items} candidates, "
            f"got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ConfigError("server_scores: expected finite numbers; leave out what has no score")
    return array
