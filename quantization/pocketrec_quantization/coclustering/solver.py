# SPDX-License-Identifier: Apache-2.0
"""From a graph and options to labels: at a given resolution, or at the one that fills a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.coclustering.budget import Budget, search_resolution
from pocketrec_quantization.coclustering.graph import Graph
from pocketrec_quantization.coclustering.multilevel import multilevel_sweeps
from pocketrec_quantization.coclustering.options import Isolated, Method, Options
from pocketrec_quantization.coclustering.partition import inner_minus_volumes
from pocketrec_quantization.coclustering.propagation import Labelling, Moves, sweeps
from pocketrec_quantization.coclustering.weighting import Weighting

__all__ = ["Problem", "Solution", "solve"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A graph and the weights of its nodes.

    Attributes:
        graph: U users and V items.
        weightings: Of users and items.
        weights: (U + V, 2) float32, on the users' and on the items' side.
        is_isolated: (U + V,) bool, nodes without edges.
    """

    graph: Graph
    weightings: tuple[Weighting, Weighting]
    weights: NDArray[np.float32]
    is_isolated: NDArray[np.bool_]

    @classmethod
    def of(cls, graph: Graph, options: Options) -> Problem:
        """Return the problem of a graph.

        Args:
            graph: What was read.
            options: What is asked for.
        """
        n_users = graph.n_users
        degrees = graph.edges.degrees()
        sides = degrees[:n_users], degrees[n_users:]
        users, items = (
            Weighting.of(side, scheme) for side, scheme in zip(sides, options.weights, strict=True)
        )
        weights = np.zeros((graph.n_nodes, 2), np.float32)
        weights[:n_users, 0] = users.weights(sides[0])
        weights[n_users:, 1] = items.weights(sides[1])
        return cls(
            graph=graph,
            weightings=(users, items),
            weights=weights,
            is_isolated=np.diff(graph.edges.offsets) == 0,
        )

    def count_rows(self, labels: NDArray[np.int32], isolated: Isolated) -> tuple[int, int]:
        """Return how many rows users and items would have.

        Args:
            labels: (U + V,) int32, from 0 to U + V − 1.
            isolated: Which rows nodes without edges have.
        """
        counts = []
        for side in (slice(None, self.graph.n_users), slice(self.graph.n_users, None)):
            is_isolated = self.is_isolated[side]
            is_used = np.zeros(self.graph.n_nodes, np.bool_)
            is_used[labels[side][~is_isolated]] = True
            alone = int(np.count_nonzero(is_isolated))
            count = int(np.count_nonzero(is_used))
            counts.append(count + (min(1, alone) if isolated is Isolated.SHARED else alone))
        return counts[0], counts[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """Labels of all nodes.

    Attributes:
        labels: (U + V,) int32, from 0 to U + V − 1.
        resolution: gamma.
        n_sweeps: How many sweeps it took, on all levels.
        objective: Of these labels, at that resolution.
    """

    labels: NDArray[np.int32]
    resolution: float
    n_sweeps: int
    objective: float


def solve(problem: Problem, options: Options) -> Solution:
    """Return labels at the resolution that is asked for, or that fills the budget.

    Args:
        problem: The graph and its weights.
        options: What is asked for.

    Raises:
        InfeasibleBudgetError: No resolution fits the budget.
    """
    if options.resolution is not None:
        return _solve_at(problem, options, options.resolution)
    budget = _budget(options)
    sides = problem.weights[: problem.graph.n_users, 0], problem.weights[problem.graph.n_users :, 1]
    connected = [side[side > 0].astype(np.float64) for side in sides]
    means, least = ([f(side) for side in connected] for f in (np.mean, np.min))
    most = float(problem.graph.edges.data.max(initial=1.0))
    n_nodes = problem.graph.n_users, problem.graph.n_items

    def size_at(resolution: float) -> tuple[int, Solution]:
        found = _solve_at(problem, options, resolution)
        return budget.size(problem.count_rows(found.labels, options.isolated), n_nodes), found

    return search_resolution(
        size_at,
        limit=budget.limit,
        start=most / float(np.prod(means)),
        highest=2 * most / float(np.prod(least)),
    )


def _budget(options: Options) -> Budget:
    limit = options.n_rows if options.n_rows is not None else options.n_bytes
    return Budget(
        limit=limit or 0,
        row_bytes=None if options.n_rows is not None else options.row_bytes,
        counted=options.counted,
        numbers=(1 + options.secondary.has_users, 1 + options.secondary.has_items),
    )


def _solve_at(problem: Problem, options: Options, resolution: float) -> Solution:
    labelling = Labelling(
        edges=problem.graph.edges,
        weights=problem.weights,
        labels=np.arange(problem.graph.n_nodes, dtype=np.int32),
    )
    moves = Moves(
        resolution=resolution,
        n_sweeps=options.n_sweeps,
        tolerance=options.tolerance,
        block_nodes=options.block_nodes,
        keeps_own=options.keeps_own,
        report=options.progress,
        is_done=_stop(problem, options),
    )
    run = multilevel_sweeps if options.method is Method.MULTILEVEL else sweeps
    n_sweeps, _ = run(labelling, moves, np.random.default_rng(options.seed))
    objective = inner_minus_volumes(problem.graph, problem.weights, labelling.labels, resolution)
    return Solution(
        labels=labelling.labels, resolution=resolution, n_sweeps=n_sweeps, objective=objective
    )


def _stop(problem: Problem, options: Options) -> Callable[[NDArray[np.int32]], bool] | None:
    limit = options.stop_rows
    if limit is None:
        return None
    return lambda labels: sum(problem.count_rows(labels, options.isolated)) <= limit
