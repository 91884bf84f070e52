# SPDX-License-Identifier: Apache-2.0
"""Co-clusters that were found, and how entities are put into them afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.graph import Edges, read_edges
from pocketrec_quantization.coclustering.options import Isolated, Options
from pocketrec_quantization.coclustering.partition import (
    Side,
    inner_minus_volumes,
    number_rows,
)
from pocketrec_quantization.coclustering.secondary import choose_clusters
from pocketrec_quantization.coclustering.solver import Problem, Solution
from pocketrec_quantization.coclustering.weighting import Weighting

__all__ = ["Model"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """Both sides of a partition, and what scores are computed from.

    Sides are numbered: 0 are users, 1 are items.

    Attributes:
        sides: Users and items.
        weightings: Of users and items.
        volumes: (K, 2) float64, of each co-cluster on each side.
        resolution: gamma.
        is_weighted: Whether values of matrices count.
    """

    sides: tuple[Side, Side]
    weightings: tuple[Weighting, Weighting]
    volumes: NDArray[np.float64]
    resolution: float
    is_weighted: bool

    @classmethod
    def of(cls, problem: Problem, solution: Solution, options: Options) -> Model:
        """Return the model of a solution; co-clusters keep the order of their labels.

        Args:
            problem: What was solved.
            solution: Its labels.
            options: What was asked for.
        """
        is_used = np.zeros(solution.labels.size, np.bool_)
        is_used[solution.labels[~problem.is_isolated]] = True
        clusters = (np.cumsum(is_used, dtype=np.int32) - 1)[solution.labels]
        clusters[problem.is_isolated] = -1
        n_clusters = int(np.count_nonzero(is_used))
        volumes = [
            np.bincount(clusters[~problem.is_isolated], side, minlength=n_clusters)
            for side in problem.weights[~problem.is_isolated].T
        ]
        shares = options.isolated is Isolated.SHARED
        users, items = (
            number_rows(part, n_clusters, shares_isolated=shares)
            for part in np.split(clusters, [problem.graph.n_users])
        )
        return cls(
            sides=(users, items),
            weightings=problem.weightings,
            volumes=np.stack(volumes, axis=1),
            resolution=solution.resolution,
            is_weighted=options.is_weighted,
        )

    def choose(self, side: int, edges: Edges, excluded: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the best co-clusters of nodes that have a row on their side: (N,) int32, or −1.

        Args:
            side: Of the nodes.
            edges: To their neighbours, who are known.
            excluded: (N,) int32, co-clusters that nodes cannot have; −1 is none.
        """
        return choose_clusters(
            edges,
            self.weightings[side].weights(edges.degrees()),
            volumes=np.ascontiguousarray(self.volumes[:, 1 - side]),
            neighbours=self.sides[1 - side].clusters,
            may_have=self.sides[side].row_of_cluster >= 0,
            excluded=excluded,
            resolution=self.resolution,
        )

    def second_rows(self, side: int, edges: Edges) -> NDArray[np.int32]:
        """Return the second row of each node, or its own where there is no second: (N,) int32.

        Args:
            side: Of the nodes.
            edges: To their neighbours.
        """
        own = self.sides[side]
        second = self.choose(side, edges, own.clusters)
        return np.where(second >= 0, own.row_of_cluster[second], own.labels).astype(np.int32)

    def assign(self, side: int, matrix: Any) -> NDArray[np.int32]:
        """Return the row of each newcomer: (N,) int32.

        Args:
            side: Of the newcomers.
            matrix: (N, known entities of the other side), sparse.

        Raises:
            ConfigError: It is no sparse matrix, or has another number of columns.
            MissingExtraError: numba or scipy is not installed.
        """
        edges = read_edges(matrix, is_weighted=self.is_weighted)
        n_known = self.sides[1 - side].clusters.size
        if matrix.shape[1] != n_known:
            # callers give items as columns
            axis, others = ("rows", "users") if side else ("columns", "items")
            raise ConfigError(
                f"biadjacency: expected {n_known} {axis}, the {others} that are known, got "
                f"{matrix.shape[1]}"
            )
        best = self.choose(side, edges, np.full(edges.n_nodes, -1, np.int32))
        known = self.sides[side]
        return np.where(best >= 0, known.row_of_cluster[best], known.default_row).astype(np.int32)

    def extended(self, problem: Problem) -> Model:
        """Return the model of a later graph, in which everybody keeps their row.

        Who has no co-cluster joins one, as far as their neighbours have some: users and items
        in turns, until nobody else can.

        Args:
            problem: The later graph; its first users and items are those of this model.
        """
        graph = problem.graph
        sides = [
            _grown(side, n)
            for side, n in zip(self.sides, (graph.n_users, graph.n_items), strict=True)
        ]
        model = self._with(sides, problem)
        is_changed = True
        while is_changed:
            is_changed = False
            for side, edges in enumerate(graph.sides()):
                best = model.choose(side, edges, np.full(edges.n_nodes, -1, np.int32))
                joins = (sides[side].clusters < 0) & (best >= 0)
                is_changed |= bool(joins.any())
                sides[side].clusters[joins] = best[joins]
                sides[side].labels[joins] = sides[side].row_of_cluster[best[joins]]
                model = self._with(sides, problem)
        return model

    def _with(self, sides: list[Side], problem: Problem) -> Model:
        """Return the model with other sides, and with the volumes that they have."""
        clusters = np.concatenate([side.clusters for side in sides])
        is_in = clusters >= 0
        volumes = [
            np.bincount(clusters[is_in], weights, minlength=self.volumes.shape[0])
            for weights in problem.weights[is_in].T
        ]
        return Model(
            sides=(sides[0], sides[1]),
            weightings=problem.weightings,
            volumes=np.stack(volumes, axis=1),
            resolution=self.resolution,
            is_weighted=self.is_weighted,
        )

    def objective(self, problem: Problem) -> float:
        """Return the objective of a graph whose nodes these are.

        Args:
            problem: The graph and its weights.
        """
        clusters = np.concatenate([side.clusters for side in self.sides])
        return inner_minus_volumes(problem.graph, problem.weights, clusters, self.resolution)


def _grown(side: Side, n_nodes: int) -> Side:
    """Return a copy of a side with more nodes, who have no co-cluster and the default row."""
    n_new = n_nodes - side.labels.size
    return replace(
        side,
        clusters=np.concatenate((side.clusters, np.full(n_new, -1, np.int32))),
        labels=np.concatenate((side.labels, np.full(n_new, side.default_row, np.int32))),
    )
