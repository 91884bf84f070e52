# SPDX-License-Identifier: Apache-2.0
"""Rewrites that keep what a graph computes and spend less memory or time on it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pocketrec_device.lowering.graph import constant, copy_of, node
from pocketrec_proto.v1.onnx_subset_pb2 import OnnxNode, OnnxValueInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel

__all__ = ["chunk_bounds", "chunk_causal_attention", "share_cache"]

_EVENTS_PER_CHUNK = 64


def share_cache(model: OnnxModel) -> None:
    """Let a step write its keys and values into the cache it attends over.

    The graph prepends the event's own row to the L-1 cached ones, which copies the whole
    cache at every step. Here the input has all L rows, and whoever runs the graph binds
    the output ``new_keys`` to the memory of row 0 of ``keys``. One node writes the query
    and both rows, and attention needs the query: it cannot run before they are written.

    Args:
        model: Changed in place.
    """
    cached = {each.name: each for each in model.graph.input}
    joins = {
        each.output[0]: each.input[1]
        for each in model.graph.node
        if each.op_type == "Concat" and len(each.input) == 2 and each.input[1] in cached
    }
    kept = [copy_of(each) for each in model.graph.node if each.output[0] not in joins]
    for each in kept:
        for position, name in enumerate(each.input):
            each.input[position] = joins.get(name, name)
    for name in joins.values():
        cached[name].type.tensor_type.shape.dim[1].dim_value += 1
    del model.graph.node[:]
    model.graph.node.extend(kept)


def chunk_bounds(n_events: int) -> tuple[int, ...]:
    """Return where a history is cut for attention: 0, ..., T; ``(0, T)`` leaves it whole.

    Args:
        n_events: T, from 1.
    """
    n_chunks = max(1, n_events // _EVENTS_PER_CHUNK)
    return tuple(n_events * number // n_chunks for number in range(n_chunks + 1))


def chunk_causal_attention(model: OnnxModel, bounds: Sequence[int]) -> None:
    """Leave out most of what causal attention computes only to hide it.

    An event attends to itself and those before it, yet the operator multiplies the whole
    square and masks half. Cut into n chunks of queries, each against the keys up to its
    own end, (n + 1) / 2n of the square is computed. The graph then fits histories of
    exactly T events, and takes the bias of chunk i as ``<bias>.<i>``.

    Args:
        model: Changed in place. Attention over a square bias that is an input is cut.
        bounds: As ``chunk_bounds`` returns them.
    """
    if len(bounds) <= 2:
        return
    biases = {each.name: each for each in model.graph.input if _is_square(each)}
    nodes: list[OnnxNode] = []
    for each in model.graph.node:
        if each.op_type == "Attention" and each.input[3] in biases:
            nodes.extend(_chunked(each, bounds))
        else:
            nodes.append(copy_of(each))
    inputs = [copy_of(each) for each in model.graph.input if each.name not in biases]
    for bias in biases.values():
        for number, (start, end) in enumerate(pairwise(bounds)):
            part = copy_of(bias)
            part.name = f"{bias.name}.{number}"
            sizes = part.type.tensor_type.shape.dim
            sizes[2].dim_value, sizes[3].dim_value = end - start, end
            inputs.append(part)
    del model.graph.node[:]
    del model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    lengths = np.diff(np.array(bounds, np.int64))
    model.graph.initializer.append(constant("chunk.lengths", lengths))
    model.graph.initializer.append(constant("chunk.start", np.zeros(1, np.int64)))
    model.graph.initializer.append(constant("chunk.axis", np.ones(1, np.int64)))
    for end in bounds[1:-1]:
        model.graph.initializer.append(constant(f"chunk.end.{end}", np.array([end], np.int64)))


def _is_square(declared: OnnxValueInfo) -> bool:
    sizes = declared.type.tensor_type.shape.dim
    return len(sizes) == 4 and bool(sizes[2].dim_param) and sizes[2].dim_param == sizes[3].dim_param


def _chunked(attention: OnnxNode, bounds: Sequence[int]) -> list[OnnxNode]:
    query, keys, values, bias = attention.input
    numbers = range(len(bounds) - 1)
    queries = [f"{query}.{number}" for number in numbers]
    mixed = [f"{attention.output[0]}.{number}" for number in numbers]
    nodes = [node("Split", [query, "chunk.lengths"], queries, axis=1)]
    for number, end in zip(numbers, bounds[1:], strict=True):
        seen = [keys, values]
        if end < bounds[-1]:
            seen = [f"{name}.{number}" for name in (keys, values)]
            cut = ["chunk.start", f"chunk.end.{end}", "chunk.axis"]
            nodes += [
                node("Slice", [whole, *cut], [part])
                for whole, part in zip((keys, values), seen, strict=True)
            ]
        part = copy_of(attention)
        part.name = f"{mixed[number]}/Attention"
        part.input[:] = [queries[number], *seen, f"{bias}.{number}"]
        part.output[0] = mixed[number]
        nodes.append(part)
    nodes.append(node("Concat", mixed, [attention.output[0]], axis=1))
    return nodes
