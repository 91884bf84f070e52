# SPDX-License-Identifier: Apache-2.0
"""What ``pocketrec compress`` takes when it may choose: what scores most like the float model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pocketrec.errors import InfeasibleBudgetError
from pocketrec_cloud.compression.allocation import lay_out
from pocketrec_cloud.compression.compressing import fit, with_table
from pocketrec_cloud.evaluation import SequenceModel, rank_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.compression.allocation import Budget
    from pocketrec_cloud.compression.layout import TableLayout
    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = [
    "CANDIDATES",
    "Candidate",
    "best_of",
    "candidates",
    "divergences",
    "some_histories",
    "validate",
]

CANDIDATES = (
    ("plain", 8),
    ("plain", 4),
    ("product", 8),
    ("product", 4),
    ("residual", 8),
    ("residual", 4),
    ("shared", 4),
)
"""Layouts and bits that are tried, see ``docs/results/codebook_sequence.md``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A layout that fits a budget.

    Attributes:
        name: Of ``LAYOUTS``.
        bits: Of codes.
        layout: The largest of its kind.
        ndcg10: On validation, fitted and not trained.
        divergence: From the float model's shares of a softmax, in nats per user.
    """

    name: str
    bits: int
    layout: TableLayout
    ndcg10: float
    divergence: float


_N_USERS = 2_000
_USERS_AT_ONCE = 128
_ALIKE = 1.05
"""Of the least divergence: as much as other users would change it."""


def candidates(budget: Budget, bits: int | None = None) -> list[tuple[str, int, TableLayout]]:
    """Return every layout of ``CANDIDATES`` that fits a budget.

    Args:
        budget: What the table may weigh.
        bits: Only those with codes of so many; None: all.

    Raises:
        InfeasibleBudgetError: None does.
    """
    found: list[tuple[str, int, TableLayout]] = []
    refusals: list[InfeasibleBudgetError] = []
    for name, width in CANDIDATES:
        if bits not in {None, width}:
            continue
        try:
            layout = lay_out(name, budget, width)
        except InfeasibleBudgetError as error:
            refusals.append(error)
            continue
        # Where there is room for a row each, shared rows are plain ones.
        if all(layout != other for _, _, other in found):
            found.append((name, width, layout))
    if not found:
        cheapest = min(refusals, key=lambda error: error.minimum_bytes)
        raise cheapest
    return found


def validate(
    trained: Backbone, split: LeaveOneOut, tried: Iterable[tuple[str, int, TableLayout]], seed: int
) -> list[Candidate]:
    """Fit layouts to a model's table, validate each, and compare it with the model.

    Args:
        trained: A backbone with a row for each item.
        split: The interactions it was trained on.
        tried: From ``candidates``.
        seed: Of fits and evaluations.
    """
    layouts = list(tried)
    models = [
        with_table(trained, fit(trained, split, layout, seed=seed)) for _, _, layout in layouts
    ]
    apart = divergences(trained, models, some_histories(split, seed=seed))
    found = []
    for (name, bits, layout), model, divergence in zip(layouts, models, apart, strict=True):
        scorer = SequenceModel(model, model.config.window)
        ndcg10 = rank_all(scorer, split, stage="validation", seed=seed).mean("ndcg", 10)
        found.append(
            Candidate(name=name, bits=bits, layout=layout, ndcg10=ndcg10, divergence=divergence)
        )
    return found


def some_histories(split: LeaveOneOut, *, seed: int) -> list[NDArray[np.int32]]:
    """Return what 2,000 users at most did before their validation target.

    Args:
        split: The interactions.
        seed: Which users.
    """
    count = min(_N_USERS, split.users.size)
    users = np.random.default_rng(seed).choice(split.users, count, replace=False)
    return [split.history(int(user), "validation") for user in users]


def divergences(
    trained: Backbone, models: Sequence[Backbone], histories: Sequence[NDArray[np.int32]]
) -> list[float]:
    """Return how far each model's shares of the unseen items are from the trained one's.

    Args:
        trained: Whose shares are expected.
        models: Of as many items.
        histories: Of the users whose next item is looked for.

    Returns:
        Kullback-Leibler divergences, in nats, means over users.
    """
    totals = [0.0] * len(models)
    for begin in range(0, len(histories), _USERS_AT_ONCE):
        some = list(histories[begin : begin + _USERS_AT_ONCE])
        expected = _log_shares(trained, some)
        shares = expected.exp()
        for place, model in enumerate(models):
            totals[place] += float((shares * (expected - _log_shares(model, some))).sum())
    return [total / len(histories) for total in totals]


def best_of(found: Sequence[Candidate]) -> Candidate:
    """Return what validates best among the candidates that diverge least.

    Source:
        Our choice. One target per user says little of layouts that are near each other; what
        the float model thinks of every item says more, and is what training goes by. Within
        5 % it says no more, and targets decide.
    """
    limit = _ALIKE * min(candidate.divergence for candidate in found)
    near = [candidate for candidate in found if candidate.divergence <= limit]
    return max(near, key=lambda candidate: candidate.ndcg10)


def _log_shares(model: Backbone, histories: list[NDArray[np.int32]]) -> torch.Tensor:
    """Return (B, V) logarithms of shares; what was seen has next to none."""
    scores = torch.from_numpy(SequenceModel(model, model.config.window)(histories))
    # Finite: a share of exactly 0 has no divergence.
    apart = torch.finfo(scores.dtype).min / 2
    for row, history in zip(scores, histories, strict=True):
        row[torch.from_numpy(history.astype(np.int64))] = apart
    return scores[:, 1:].log_softmax(dim=1)
