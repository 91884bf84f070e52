# SPDX-License-Identifier: Apache-2.0
"""LightGCN and matrix factorisation on interaction graphs, with tables made of codebooks.

Meant for comparing compressed tables with the literature, whose numbers come from these two.
"""

from __future__ import annotations

from pocketrec_cloud.collaborative.assignment import CodebookShape, Mixing, RowAssignment
from pocketrec_cloud.collaborative.codebook_table import CodebookTable
from pocketrec_cloud.collaborative.fitting import FitConfig, fit, rank_test, rank_validation
from pocketrec_cloud.collaborative.interaction_split import InteractionSplit
from pocketrec_cloud.collaborative.propagation import GraphModel

__all__ = [
    "CodebookShape",
    "CodebookTable",
    "FitConfig",
    "GraphModel",
    "InteractionSplit",
    "Mixing",
    "RowAssignment",
    "fit",
    "rank_test",
    "rank_validation",
]
