# SPDX-License-Identifier: Apache-2.0
"""The loops over edges. Importing this module compiles them: ``load_kernels`` does it.

Every kernel sees users and items as one range of N nodes: users first, then items. A node has
a pair of weights, one per side, and a label a pair of volumes: the sums of its nodes' weights.
A user weighs nothing on the items' side; nodes of coarser graphs weigh on both.

Arrays come in tuples: a graph is ``offsets`` (N + 1,) int64, where each node's edges begin,
``indices`` int32, the nodes at their other ends, never the node itself, and ``data`` float32,
empty where every edge counts 1. Work arrays are ``table`` float64, one row per label, whose first
column every kernel finds and leaves zero, and ``touched`` int32, with one number more than rows
and any content. Moves keep the volumes in the same rows: what is asked for together lies
together, which decides the speed of large graphs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.coclustering.compiled import compiled

__all__ = ["ITEMS", "USERS", "aggregate", "best_labels", "inner_edges", "mirror", "sweep"]

USERS, ITEMS = 1, 2
"""Columns of the table that moves keep."""

Ints = NDArray[np.int32]
Offsets = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Graph = tuple[Offsets, Ints, Floats]
State = tuple[Floats, Ints]
Work = tuple[Doubles, Ints]

_GRAPH = "Tuple((i8[::1], i4[::1], f4[::1]))"
_STATE = "Tuple((f4[:, ::1], i4[::1]))"
_WORK = "Tuple((f8[:, ::1], i4[::1]))"


@compiled(f"void({_GRAPH}, {_GRAPH})")
def mirror(graph: Graph, both: Graph) -> None:
    """Write the edges of both directions, from those of users to items.

    Args:
        graph: Of U users to V items, E edges.
        both: To fill: zeros of (U + V + 1,), then (2E,), then (2E,) or empty.
    """
    offsets, indices, data = graph
    new_offsets, new_indices, new_data = both
    n_users = offsets.size - 1
    for j in range(indices.size):
        new_offsets[n_users + indices[j] + 1] += 1
    new_offsets[: n_users + 1] = offsets
    for node in range(n_users, new_offsets.size - 1):
        new_offsets[node + 1] += new_offsets[node]
    ends = new_offsets[n_users:-1].copy()
    for user in range(n_users):
        for j in range(offsets[user], offsets[user + 1]):
            item = indices[j]
            place = ends[item]
            ends[item] += 1
            new_indices[j] = item + n_users
            new_indices[place] = user
            if data.size:
                new_data[j] = data[j]
                new_data[place] = data[j]


@compiled(f"i8({_GRAPH}, i8, i4[::1], i8, {_WORK})")
def _gather(graph: Graph, x: int, labels: Ints, n_touched: int, work: Work) -> int:
    """Add a node's edges up by label; return how many labels were met so far."""
    offsets, indices, data = graph
    table, touched = work
    for j in range(offsets[x], offsets[x + 1]):
        label = labels[indices[j]]
        touched[n_touched] = label  # counts where the label is new; cheaper than a branch
        n_touched += table[label, 0] == 0.0
        table[label, 0] += data[j] if data.size else 1.0
    return n_touched


@compiled(f"Tuple((i4, f8, f8))({_STATE}, i8, i8, {_WORK}, f8, f8, b1)")
def _choose(
    state: State, x: int, n_touched: int, work: Work, gamma: float, margin: float, keeps_own: bool
) -> tuple[int, float, float]:
    """Return a node's best label, its score, and that of the label it has; clear the work."""
    weights, labels = state
    table, touched = work
    own = labels[x]
    by_user, by_item = gamma * weights[x, 0], gamma * weights[x, 1]
    stay = table[own, 0]
    stay -= by_user * (table[own, ITEMS] - weights[x, 1])
    stay -= by_item * (table[own, USERS] - weights[x, 0])
    best, best_score = own, (stay + margin if keeps_own else -np.inf)
    for k in range(n_touched):
        label = touched[k]
        score = table[label, 0] - by_user * table[label, ITEMS] - by_item * table[label, USERS]
        if label == own:
            score = stay
        table[label, 0] = 0.0
        is_tie = score == best_score and label < best and not (keeps_own and best == own)
        if score > best_score or is_tie:
            best, best_score = label, score
    return best, best_score, stay


@compiled(f"Tuple((i8, f8))({_GRAPH}, {_STATE}, i4[::1], i8, b1[::1], {_WORK}, f8, f8, b1)")
def sweep(
    graph: Graph,
    state: State,
    blocks: Ints,
    block_nodes: int,
    is_waiting: Flags,
    work: Work,
    gamma: float,
    margin: float,
    keeps_own: bool,
) -> tuple[int, float]:
    """Let every waiting node move to the label where it gains most, one after the other.

    Args:
        graph: The edges of both directions.
        state: Weights (N, 2) float32, and, changed along, labels (N,) int32.
        blocks: (⌈N / block_nodes⌉,) int32, the order in which blocks have turns.
        block_nodes: How many consecutive nodes are a block.
        is_waiting: (N,) bool; nodes whose turn came are done, neighbours of movers wait again.
        work: Work arrays; the table (N, 4) has the volumes of users and items in its columns
            ``USERS`` and ``ITEMS``, which change along.
        gamma: The resolution.
        margin: A gain below it is rounding.
        keeps_own: Whether a node may stay; otherwise it takes the best of its neighbours' labels.

    Returns:
        How many nodes moved, and what the objective gained.

    Source:
        BACO (arXiv 2604.18351), label propagation with exact gains; staying, waiting and the
        order of ties (the smallest label) are our choice.
    """
    offsets, indices, _ = graph
    weights, labels = state
    table = work[0]
    n_moves, total = 0, 0.0
    for turn in range(blocks.size):
        begin = int(blocks[turn]) * block_nodes
        for x in range(begin, min(begin + block_nodes, labels.size)):
            if not is_waiting[x]:
                continue
            is_waiting[x] = False
            if offsets[x] == offsets[x + 1]:
                continue
            own = labels[x]
            n_touched = _gather(graph, x, labels, 0, work)
            best, score, stay = _choose(state, x, n_touched, work, gamma, margin, keeps_own)
            if best == own:
                continue
            n_moves += 1
            total += score - stay
            labels[x] = best
            for side, column in ((0, USERS), (1, ITEMS)):
                table[own, column] -= weights[x, side]
                table[best, column] += weights[x, side]
            for j in range(offsets[x], offsets[x + 1]):
                if labels[indices[j]] != best:
                    is_waiting[indices[j]] = True
    return n_moves, total


@compiled(f"i8({_GRAPH}, i4[::1], i4[::1], i8[::1], {_WORK}, {_GRAPH})")
def aggregate(
    graph: Graph, labels: Ints, members: Ints, starts: Offsets, work: Work, coarse: Graph
) -> int:
    """Write the graph whose nodes are the labels; edges inside a label are left out.

    Args:
        graph: The edges of both directions.
        labels: (N,) int32, from 0 to K − 1.
        members: (N,) int32, nodes by label.
        starts: (K + 1,) int64, where each label's nodes begin.
        work: Work arrays.
        coarse: To fill: (K + 1,), then two from the start, as long as ``indices``.

    Returns:
        How many entries were written.
    """
    table, touched = work
    new_offsets, new_indices, new_data = coarse
    n_written = 0
    new_offsets[0] = 0
    for own in range(starts.size - 1):
        n_touched = 0
        for place in range(starts[own], starts[own + 1]):
            n_touched = _gather(graph, members[place], labels, n_touched, work)
        for k in range(n_touched):
            label = touched[k]
            if label != own:
                new_indices[n_written] = label
                new_data[n_written] = table[label, 0]
                n_written += 1
            table[label, 0] = 0.0
        new_offsets[own + 1] = n_written
    return n_written


@compiled(f"f8({_GRAPH}, i4[::1], i4[::1])")
def inner_edges(graph: Graph, own: Ints, others: Ints) -> float:
    """Return the sum of edges between nodes of the same label; below 0 is none.

    Args:
        graph: From N nodes.
        own: (N,) int32, labels of these nodes.
        others: int32, labels by the numbers at the other ends of edges.
    """
    offsets, indices, data = graph
    total = 0.0
    for x in range(own.size):
        for j in range(offsets[x], offsets[x + 1]):
            if own[x] >= 0 and others[indices[j]] == own[x]:
                total += data[j] if data.size else 1.0
    return total


@compiled(f"void({_GRAPH}, f8[::1], f8[::1], i4[::1], b1[::1], i4[::1], {_WORK}, f8, i4[::1])")
def best_labels(
    graph: Graph,
    weights: Doubles,
    volumes: Doubles,
    labels: Ints,
    may_have: Flags,
    excluded: Ints,
    work: Work,
    gamma: float,
    best: Ints,
) -> None:
    """Find each node's best label among those of its neighbours, which stay as they are.

    Args:
        graph: From N nodes to their neighbours, who are numbered on their own.
        weights: (N,) float64, of the nodes.
        volumes: (K,) float64, of each label on the neighbours' side.
        labels: (neighbours,) int32; below 0 is none.
        may_have: (K,) bool, the labels to choose among.
        excluded: (N,) int32, one label that a node cannot have; below 0 is none.
        work: Work arrays.
        gamma: The resolution.
        best: (N,) int32, to fill; −1 where there is none. Ties go to the smallest label.
    """
    offsets, indices, data = graph
    table, touched = work
    for x in range(offsets.size - 1):
        n_touched = 0
        for j in range(offsets[x], offsets[x + 1]):
            label = labels[indices[j]]
            if label < 0 or not may_have[label] or label == excluded[x]:
                continue
            if table[label, 0] == 0.0:
                touched[n_touched] = label
                n_touched += 1
            table[label, 0] += data[j] if data.size else 1.0
        chosen, chosen_score = -1, -np.inf
        for k in range(n_touched):
            label = touched[k]
            score = table[label, 0] - gamma * weights[x] * volumes[label]
            table[label, 0] = 0.0
            if score > chosen_score or (score == chosen_score and label < chosen):
                chosen, chosen_score = label, score
        best[x] = chosen
