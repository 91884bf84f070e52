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

*Pointwise* scores every candidate once. *Sequential* builds a slate: the best candidate is
picked by the same rules, the user's state takes it in as if it had been an event, and the
candidates that are left are scored again; so later picks know the earlier ones. Its scores
are those each candidate had when it was picked, and may rise from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.engine import Items

__all__ = ["MODES", "Candidates", "Mode", "Ranking", "check_lists", "rank", "rank_slate"]

Mode: TypeAlias = Literal["pointwise", "sequential"]

MODES: tuple[Mode, ...] = ("pointwise", "sequential")
"""How a ranking can be made."""

_LONG_LIST = 512  # from here on, finding the best k first is faster than sorting all


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best candidates, best first.

    Args:
        items: Item ids.
        scores: One per item; never increasing when pointwise.
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
        indices: (M,) intp, where the item table has them, if checking them told.
    """

    items: tuple[str, ...]
    server_scores: NDArray[np.float64] | None
    server_weight: float
    indices: NDArray[np.intp] | None = None

    @classmethod
    def of(
        cls,
        items: Sequence[str],
        *,
        server_scores: Sequence[float] | None = None,
        server_weight: float = 0.0,
        excluded: frozenset[str] = frozenset(),
        table: Items | None = None,
    ) -> Candidates:
        """Check what the caller gave; drop repetitions and ``excluded`` items.

        With a ``table``, the usual list, of items that it knows, each once, is checked by
        looking them up.

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
        if table is not None and server_scores is None and not excluded:
            as_given = tuple(items)
            indices = table.distinct_indices(as_given)
            if indices is not None:
                return cls(items=as_given, server_scores=None, server_weight=0.0, indices=indices)
        kept = dict.fromkeys(items)  # in order, each once
        for item in excluded:
            kept.pop(item, None)
        scores = None
        if server_scores is not None:
            scores = _checked_scores(server_scores, len(items))
            if len(kept) < len(items):
                first = dict(zip(reversed(items), range(len(items) - 1, -1, -1), strict=True))
                scores = scores[[first[item] for item in kept]]
        return cls(items=tuple(kept), server_scores=scores, server_weight=server_weight)


def check_lists(
    candidate_lists: Sequence[Sequence[str]],
    *,
    server_scores: Sequence[Sequence[float]] | None,
    server_weight: float,
    excluded: frozenset[str],
    table: Items | None,
) -> list[Candidates]:
    """Check several lists, each as ``Candidates.of`` does.

    Raises:
        ConfigError: There are not as many lists of scores, or ``Candidates.of`` raises it.
    """
    n_lists = len(candidate_lists)
    all_scores: Sequence[Sequence[float] | None]
    all_scores = [None] * n_lists if server_scores is None else server_scores
    if len(all_scores) != n_lists:
        found = len(all_scores)
        raise ConfigError(f"server_scores: expected scores for {n_lists} lists, got {found}")
    return [
        Candidates.of(
            items,
            server_scores=scores,
            server_weight=server_weight,
            excluded=excluded,
            table=table,
        )
        for items, scores in zip(candidate_lists, all_scores, strict=True)
    ]


def rank(
    candidates: Candidates,
    device_scores: NDArray[np.float32] | None,
    known: NDArray[np.bool_] | None,
    k: int,
) -> Ranking:
    """Return the k best candidates, pointwise.

    Args:
        candidates: M of them.
        device_scores: (M,) float32; what stands at unknown candidates is not read. None
            without a history.
        known: (M,) bool, whether the item table has the candidate; None = all of them.
        k: How many to return, from 1; more than M returns all.

    Raises:
        ConfigError: ``k`` is below 1.
    """
    _check_k(k)
    scores = _combined(candidates, device_scores, known)
    order = _best(scores, k)
    items = candidates.items
    return Ranking(
        items=tuple([items[i] for i in order.tolist()]),
        scores=tuple(scores[order].tolist()),
    )


def rank_slate(
    candidates: Candidates,
    known: NDArray[np.bool_] | None,
    k: int,
    *,
    score: Callable[[], NDArray[np.float32] | None],
    take_in: Callable[[int], None],
) -> Ranking:
    """Return a slate of k candidates, picked one after the other.

    Args:
        candidates: M of them.
        known: (M,) bool, whether the item table has the candidate; None = all of them.
        k: How many to pick, from 1; more than M picks all.
        score: Returns (M,) float32 for the user's state as it is; None without a history.
        take_in: Called with the position of each known pick but the last, to become part
            of the state.

    Raises:
        ConfigError: ``k`` is below 1.
        BackendError: Inference failed.
    """
    _check_k(k)
    is_left = np.ones(len(candidates.items), np.bool_)
    picked: list[int] = []
    scores: list[float] = []
    n_picks = min(k, len(candidates.items))
    while len(picked) < n_picks:
        current = _combined(candidates, score(), known)
        left = np.flatnonzero(is_left)
        best = int(left[current[left].argmax()])  # of equals, the first
        is_left[best] = False
        picked.append(best)
        scores.append(float(current[best]))
        if len(picked) < n_picks and (known is None or known[best]):
            take_in(best)
    return Ranking(items=tuple([candidates.items[i] for i in picked]), scores=tuple(scores))


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k: expected at least 1, got {k}")


def _best(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Return the positions of the k highest scores, best first, ties by position."""
    if len(scores) < _LONG_LIST or k >= len(scores):
        return np.argsort(-scores, kind="stable")[:k]
    worst = np.partition(scores, len(scores) - k)[len(scores) - k]
    among = np.flatnonzero(scores >= worst)
    return among[np.argsort(-scores[among], kind="stable")[:k]]


def _combined(
    candidates: Candidates,
    device_scores: NDArray[np.float32] | None,
    known: NDArray[np.bool_] | None,
) -> NDArray[np.floating]:
    if device_scores is None:
        if candidates.server_scores is None:
            return np.zeros(len(candidates.items))
        return candidates.server_scores
    scores: NDArray[np.floating] = device_scores
    if candidates.server_weight and candidates.server_scores is not None:
        scores = scores + candidates.server_weight * candidates.server_scores
    return scores if known is None else np.where(known, scores, -np.inf)


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
