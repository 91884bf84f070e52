# SPDX-License-Identifier: Apache-2.0
"""What ``pocketrec compress`` takes when it may choose: what validates best when fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import InfeasibleBudgetError
from pocketrec_cloud.compression.allocation import lay_out
from pocketrec_cloud.compression.compressing import fit, with_table
from pocketrec_cloud.evaluation import SequenceModel, rank_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.compression.allocation import Budget
    from pocketrec_cloud.compression.layout import TableLayout
    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = ["CANDIDATES", "Candidate", "best_of", "candidates", "validate"]

CANDIDATES = (
    ("plain", 8),
    ("plain", 4),
    ("product", 8),
    ("product", 4),
    ("residual", 8),
    ("shared", 4),
)
"""Layouts and bits that are tried: each but ``plain`` won somewhere below the bytes of ``plain``,
see ``docs/results/codebook_sequence.md``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A layout that fits a budget.

    Attributes:
        name: Of ``LAYOUTS``.
        bits: Of codes.
        layout: The largest of its kind.
        ndcg10: On validation, fitted and not trained.
    """

    name: str
    bits: int
    layout: TableLayout
    ndcg10: float


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
    """Fit layouts to a model's table and validate each.

    Args:
        trained: A backbone with a row for each item.
        split: The interactions it was trained on.
        tried: From ``candidates``.
        seed: Of fits and evaluations.
    """
    found = []
    for name, bits, layout in tried:
        model = with_table(trained, fit(trained, split, layout, seed=seed))
        scorer = SequenceModel(model, model.config.window)
        ndcg10 = rank_all(scorer, split, stage="validation", seed=seed).mean("ndcg", 10)
        found.append(Candidate(name=name, bits=bits, layout=layout, ndcg10=ndcg10))
    return found


def best_of(found: Sequence[Candidate]) -> Candidate:
    """Return the candidate that validated best; the first of equals."""
    return max(found, key=lambda candidate: candidate.ndcg10)
