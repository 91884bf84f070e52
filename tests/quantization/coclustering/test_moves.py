# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from tests.quantization.coclustering.brute_force import dense_objective, random_graph

from pocketrec_quantization.coclustering.compiled import load_kernels
from pocketrec_quantization.coclustering.graph import read_graph
from pocketrec_quantization.coclustering.multilevel import compact, multilevel_sweeps
from pocketrec_quantization.coclustering.propagation import (
    Labelling,
    Moves,
    SweepReport,
    sweeps,
)


def problem(
    rng: np.random.Generator, *, is_coarse: bool = False
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], Labelling]:
    """Return a small graph, dense and sparse, with random weights and labels."""
    matrix = random_graph(rng, 4, 5) * rng.integers(1, 4, (4, 5))
    graph = read_graph(sparse.csr_array(matrix), is_weighted=True)
    weights = rng.random((9, 2)).astype(np.float32)
    if not is_coarse:
        weights[:4, 1], weights[4:, 0] = 0, 0
    labels = rng.integers(0, 9, 9).astype(np.int32)
    return matrix, Labelling(edges=graph.edges, weights=weights, labels=labels)


def full_objective(
    matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]], labelling: Labelling, gamma: float
) -> float:
    """Return edges inside labels minus gamma times volumes, where nodes may weigh on both sides.

    The product of a node's own two weights, which no move changes, is left out.
    """
    labels, weights = labelling.labels, labelling.weights.astype(np.float64)
    users, items = labels[:4], labels[4:]
    total = float(matrix[users[:, None] == items].sum())
    for label in set(labels.tolist()):
        own = weights[labels == label]
        total -= gamma * (own[:, 0].sum() * own[:, 1].sum() - (own[:, 0] * own[:, 1]).sum())
    return total


class TestOneMove:
    @pytest.mark.parametrize("keeps_own", [True, False])
    @pytest.mark.parametrize("is_coarse", [True, False])
    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 5))
    def test_a_node_takes_the_best_label_and_gains_what_it_says(
        self, *, keeps_own: bool, is_coarse: bool, seed: int, gamma: float
    ) -> None:
        """Label and gain of one move are those of trying every candidate by hand."""
        rng = np.random.default_rng(seed)
        matrix, labelling = problem(rng, is_coarse=is_coarse)
        x = int(rng.integers(9))
        neighbours = labelling.edges.indices[slice(*labelling.edges.offsets[x : x + 2])]
        before = full_objective(matrix, labelling, gamma)
        tried = {}
        for label in {*labelling.labels[neighbours].tolist(), int(labelling.labels[x])}:
            labels = labelling.labels.copy()
            labels[x] = label
            moved = Labelling(edges=labelling.edges, weights=labelling.weights, labels=labels)
            tried[label] = full_objective(matrix, moved, gamma) - before
        is_waiting = np.zeros(9, np.bool_)
        is_waiting[x] = True
        old = labelling.labels.copy()

        n_moves, gain = load_kernels().sweep(
            labelling.edges.arrays,
            (labelling.weights, labelling.labels),
            np.array([x], np.int32),
            1,
            is_waiting,
            (labelling.table(), np.empty(10, np.int32)),
            gamma,
            1e-9,
            keeps_own,
        )

        candidates = set(labelling.labels[neighbours].tolist()) if len(neighbours) else set()
        if keeps_own or not candidates:
            candidates.add(int(old[x]))
        others = np.flatnonzero(labelling.labels != old)
        assert others.tolist() in ([], [x])
        assert n_moves == others.size
        assert gain == pytest.approx(tried[int(labelling.labels[x])], abs=1e-5)
        assert gain >= max(tried[label] for label in candidates) - 1e-5

    def test_ties_go_to_the_smallest_label(self) -> None:
        """Of two labels that score alike, a node takes the smaller."""
        edges = read_graph(sparse.csr_array(np.ones((1, 2))), is_weighted=False).edges
        labels = np.array([0, 2, 1], np.int32)
        labelling = Labelling(edges=edges, weights=np.ones((3, 2), np.float32), labels=labels)

        load_kernels().sweep(
            edges.arrays,
            (labelling.weights, labels),
            np.zeros(1, np.int32),
            1,
            np.ones(3, np.bool_),
            (labelling.table(), np.empty(4, np.int32)),
            0.1,
            1e-9,
            True,
        )

        assert labels.tolist() == [1, 2, 1]


class TestSweeps:
    @pytest.mark.parametrize("run", [sweeps, multilevel_sweeps])
    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 5))
    def test_the_objective_never_falls(self, *, run: type, seed: int, gamma: float) -> None:
        """Every sweep on every level gains, and the sum is the rise of the objective."""
        matrix, labelling = problem(np.random.default_rng(seed))
        labelling.labels[:] = np.arange(9)
        weights = labelling.weights[:4, 0].astype(float), labelling.weights[4:, 1].astype(float)
        before = dense_objective(matrix, weights, labelling.labels, gamma)
        reports: list[SweepReport] = []
        moves = Moves(
            resolution=gamma, n_sweeps=20, tolerance=0, block_nodes=2, report=reports.append
        )

        n_sweeps, gain = run(labelling, moves, np.random.default_rng(seed))

        after = dense_objective(matrix, weights, labelling.labels, gamma)
        assert all(report.gain >= 0 for report in reports)
        assert gain == pytest.approx(after - before, abs=1e-4)
        assert n_sweeps == len(reports)
        assert reports[-1].n_moves == 0 or reports[-1].sweep == 20

    def test_a_forced_move_may_cost(self) -> None:
        """Without staying, a node leaves a label that was better: as published."""
        edges = read_graph(sparse.csr_array(np.ones((1, 1))), is_weighted=False).edges
        labels = np.array([0, 1], np.int32)
        labelling = Labelling(edges=edges, weights=np.ones((2, 2), np.float32), labels=labels)
        moves = Moves(resolution=9, n_sweeps=1, tolerance=0, block_nodes=1, keeps_own=False)

        _, gain = sweeps(labelling, moves, np.random.default_rng(0))

        assert labels[0] == labels[1]
        assert gain < 0

    def test_whoever_asks_can_stop(self) -> None:
        """A sweep after which the caller is satisfied is the last one."""
        _, labelling = problem(np.random.default_rng(0))
        moves = Moves(
            resolution=0.1,
            n_sweeps=9,
            tolerance=0,
            block_nodes=4,
            keeps_own=False,
            is_done=lambda labels: labels.size == 9,
        )

        assert sweeps(labelling, moves, np.random.default_rng(0))[0] == 1


def test_compact_keeps_the_order_of_labels() -> None:
    """Labels are numbered from 0 on in the order that they had."""
    labels = np.array([4, 1, 4, 3, 1], np.int32)

    assert compact(labels) == 3
    assert labels.tolist() == [2, 0, 2, 1, 0]
