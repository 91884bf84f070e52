# SPDX-License-Identifier: Apache-2.0
"""Co-clustering with the surface of scikit-learn's estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.choices import read_choice
from pocketrec_quantization.coclustering.graph import Graph, read_graph
from pocketrec_quantization.coclustering.model import Model
from pocketrec_quantization.coclustering.options import (
    Isolated,
    Method,
    Options,
    Sides,
    default_sweeps,
)
from pocketrec_quantization.coclustering.propagation import SweepReport
from pocketrec_quantization.coclustering.solver import Problem, solve
from pocketrec_quantization.coclustering.weighting import WeightScheme, read_schemes

__all__ = ["CoClustering"]

DEFAULT_ROW_BYTES = 256


class CoClustering:
    """Balanced co-clusters of users and items: similar ones share a row of an embedding table.

    Args:
        n_rows: Rows that the tables of the counted sides may have together.
        n_bytes: Bytes that they may take, with a row number per user and item, and another
            where there are second rows.
        resolution: gamma: the higher, the more and the smaller the co-clusters.
        row_bytes: Bytes of one row, for ``n_bytes``; 64 numbers of float32 by default.
        counted: The sides whose tables count: ``"both"``, ``"items"`` or ``"users"``.
        method: ``"multilevel"``, or ``"propagation"``: moves of single nodes only.
        weights: How much nodes count for balance: ``"degree"``, ``"uniform"``, ``"sqrt"``,
            ``"log"`` or ``"degree_per_node"``, for both sides or as a pair (users, items).
        n_sweeps: Sweeps at most, per level; by default 10 for multilevel, 5 for propagation.
        tolerance: Sweeps end when one gained less than this share of all edges; at 0 only
            when nothing moved.
        block_nodes: Nodes with consecutive numbers move together, in blocks of this size whose
            order is random: several times as fast as an order of single nodes.
        keeps_own: Whether a node may stay in its co-cluster: then the objective never falls.
        stop_rows: Stop sweeping at so few rows; for ``"propagation"`` alone.
        secondary: The sides that get second rows: ``"both"``, ``"users"``, ``"items"`` or
            ``"none"``. No rows are added.
        isolated: Whether nodes without interactions share one row per side (``"shared"``) or
            have one each (``"own"``).
        is_weighted: Whether the matrix's values count. Otherwise every stored number above 0
            is one interaction, however often it is stored.
        seed: Of the orders in which nodes move. The same seed gives the same rows.
        progress: Called after each sweep.

    Attributes:
        user_labels_: (U,) int32, row of each user, from 0 to ``n_user_rows_`` − 1.
        item_labels_: (V,) int32, row of each item, from 0 to ``n_item_rows_`` − 1.
        secondary_user_labels_: (U,) int32, second rows; the first again where there is none.
        secondary_item_labels_: (V,) int32, likewise.
        user_clusters_: (U,) int32, co-cluster of each user; −1 without interactions.
        item_clusters_: (V,) int32, by the same numbers.
        n_user_rows_: K_U.
        n_item_rows_: K_V.
        default_user_row_: What a user without known interactions gets.
        default_item_row_: What an item without known interactions gets.
        objective_: Edges inside co-clusters minus gamma times the products of their volumes.
        resolution_: The gamma that was used.
        n_sweeps_: How many sweeps the solution took.

    Raises:
        ConfigError: Not exactly one of ``n_rows``, ``n_bytes`` and ``resolution`` is given, or
            one of the others is out of its range.

    Source:
        BACO (arXiv 2604.18351); ``method="multilevel"``, ``keeps_own`` and second rows of items
        are our choice.
    """

    user_labels_: NDArray[np.int32]
    item_labels_: NDArray[np.int32]
    secondary_user_labels_: NDArray[np.int32]
    secondary_item_labels_: NDArray[np.int32]
    objective_: float
    n_sweeps_: int

    def __init__(
        self,
        *,
        n_rows: int | None = None,
        n_bytes: int | None = None,
        resolution: float | None = None,
        row_bytes: int = DEFAULT_ROW_BYTES,
        counted: Sides | str = Sides.BOTH,
        method: Method | str = Method.MULTILEVEL,
        weights: str | tuple[str, str] = WeightScheme.DEGREE,
        n_sweeps: int | None = None,
        tolerance: float = 1e-4,
        block_nodes: int = 32,
        keeps_own: bool = True,
        stop_rows: int | None = None,
        secondary: Sides | str = Sides.BOTH,
        isolated: Isolated | str = Isolated.SHARED,
        is_weighted: bool = False,
        seed: int = 0,
        progress: Callable[[SweepReport], None] | None = None,
    ) -> None:
        method = read_choice(Method, method, "method")
        self.options = Options(
            n_rows=n_rows,
            n_bytes=n_bytes,
            resolution=resolution,
            row_bytes=row_bytes,
            counted=read_choice(Sides, counted, "counted"),
            method=method,
            weights=read_schemes(weights, "weights"),
            n_sweeps=default_sweeps(method) if n_sweeps is None else n_sweeps,
            tolerance=tolerance,
            block_nodes=block_nodes,
            keeps_own=keeps_own,
            stop_rows=stop_rows,
            secondary=read_choice(Sides, secondary, "secondary"),
            isolated=read_choice(Isolated, isolated, "isolated"),
            is_weighted=is_weighted,
            seed=seed,
            progress=progress,
        )
        self._model: Model | None = None

    @classmethod
    def paper(
        cls,
        *,
        resolution: float | None = None,
        n_rows: int | None = None,
        stop_rows: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Return the solver as published: five sweeps in which every node takes the best label.

        Args:
            resolution: gamma, as published: w_u = d_u / sqrt(E), w_v = d_v / sqrt(V).
            n_rows: Instead of a resolution: find one whose five sweeps leave so many rows.
            stop_rows: The published budget: sweeps stop at so few rows.
            seed: Of the orders.

        Raises:
            ConfigError: Not exactly one of ``resolution`` and ``n_rows`` is given.

        Source:
            BACO (arXiv 2604.18351), with ties to the smallest label, our choice.
        """
        return cls(
            resolution=resolution,
            n_rows=n_rows,
            method=Method.PROPAGATION,
            weights=(WeightScheme.DEGREE, WeightScheme.DEGREE_PER_NODE),
            n_sweeps=5,
            block_nodes=1,
            keeps_own=False,
            stop_rows=stop_rows,
            secondary=Sides.USERS,
            isolated=Isolated.OWN,
            seed=seed,
        )

    def fit(self, biadjacency: Any) -> Self:
        """Find co-clusters.

        Args:
            biadjacency: (U, V) scipy sparse matrix of any format, which stays as it is. Users
                and items without interactions are allowed, as are duplicates.

        Raises:
            ConfigError: It is no sparse matrix of two dimensions, holds no interaction, or a
                number in it is below 0, NaN or infinite.
            InfeasibleBudgetError: Not even one co-cluster per connected part fits the budget.
            MissingExtraError: numba or scipy is not installed.
        """
        graph = read_graph(biadjacency, is_weighted=self.options.is_weighted)
        problem = Problem.of(graph, self.options)
        solution = solve(problem, self.options)
        self.objective_ = solution.objective
        self.n_sweeps_ = solution.n_sweeps
        self._set_model(Model.of(problem, solution, self.options), graph)
        return self

    def assign_users(self, biadjacency: Any) -> NDArray[np.int32]:
        """Return rows of new users, from few interactions: (N,) int32.

        A user joins the co-cluster that a move would choose. Without interactions, or only
        with items that nobody else has, it is ``default_user_row_``.

        Args:
            biadjacency: (N, V) sparse, of new users and the items of ``fit``.

        Raises:
            ConfigError: It is no sparse matrix, or its columns are not the items of ``fit``.
            MissingExtraError: numba or scipy is not installed.
        """
        return self._fitted().assign(0, biadjacency)

    def assign_items(self, biadjacency: Any) -> NDArray[np.int32]:
        """Return rows of new items, from few interactions: (N,) int32.

        Args:
            biadjacency: (U, N) sparse, of the users of ``fit`` and new items.

        Raises:
            ConfigError: It is no sparse matrix, or its rows are not the users of ``fit``.
            MissingExtraError: numba or scipy is not installed.
        """
        return self._fitted().assign(1, getattr(biadjacency, "T", biadjacency))

    def update(self, biadjacency: Any) -> Self:
        """Take in new users, items and interactions; who had a row keeps it.

        Rows are neither added nor renumbered. Newcomers, and those who had no interactions so
        far, join the co-cluster that a move would choose; who still has none, or only such with
        others without a co-cluster, gets the default row.

        Args:
            biadjacency: (U' ≥ U, V' ≥ V) sparse, all interactions that count now. Its first
                rows and columns are the users and items of before.

        Raises:
            ConfigError: As `fit`, or there are fewer rows or columns than before.
            MissingExtraError: numba or scipy is not installed.
        """
        before = self._fitted()
        n_before = tuple(side.labels.size for side in before.sides)
        graph = read_graph(biadjacency, is_weighted=self.options.is_weighted)
        if graph.n_users < n_before[0] or graph.n_items < n_before[1]:
            raise ConfigError(
                f"biadjacency: expected at least the {n_before} users and items of before, "
                f"got {(graph.n_users, graph.n_items)}"
            )
        second = self.secondary_user_labels_, self.secondary_item_labels_
        problem = Problem.of(graph, self.options)
        model = before.extended(problem)
        self._set_model(model, graph)
        for now, earlier, side in zip(
            (self.secondary_user_labels_, self.secondary_item_labels_),
            second,
            before.sides,
            strict=True,
        ):
            had_one = side.clusters >= 0
            now[: earlier.size][had_one] = earlier[had_one]
        self.objective_ = model.objective(problem)
        return self

    def _fitted(self) -> Model:
        if self._model is None:
            raise RuntimeError("expected a fitted CoClustering: call fit first")
        return self._model

    def _set_model(self, model: Model, graph: Graph) -> None:
        """Show a model's rows as attributes."""
        users, items = model.sides
        self._model = model
        self.user_labels_, self.item_labels_ = users.labels, items.labels
        self.user_clusters_, self.item_clusters_ = users.clusters, items.clusters
        self.n_user_rows_, self.n_item_rows_ = users.n_rows, items.n_rows
        self.default_user_row_, self.default_item_row_ = users.default_row, items.default_row
        self.resolution_ = model.resolution
        wants = self.options.secondary
        second = [rows.labels.copy() for rows in model.sides]
        for side, edges in enumerate(graph.sides()):
            if (wants.has_users, wants.has_items)[side]:
                second[side] = model.second_rows(side, edges)
        self.secondary_user_labels_, self.secondary_item_labels_ = second
