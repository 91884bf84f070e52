# SPDX-License-Identifier: Apache-2.0
"""What ``pocketrec compress`` takes when it may choose: the rule and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketrec_cloud.compression.allocation import plain, product, rows

if TYPE_CHECKING:
    from pocketrec_cloud.compression.allocation import Budget
    from pocketrec_cloud.compression.layout import TableLayout

__all__ = ["choose_layout"]


def choose_layout(budget: Budget) -> TableLayout:
    """Return the layout that measurements favour at a budget.

    A row of 8 bits for each item where that fits; otherwise a product, with codes of 4
    bits where they leave room for more combinations.

    Args:
        budget: What the table may weigh.

    Raises:
        InfeasibleBudgetError: The smallest product is above the budget.

    Source:
        ``docs/compression.md``, with the measurements.
    """
    if budget.holds(rows(budget.n_items, budget.embedding_dim, 8)):
        return plain(budget, 8)
    return product(budget, 8)
