# SPDX-License-Identifier: Apache-2.0
"""Follows the channels of products through a graph: which column of a value is which channel.

Channels stay apart through ReLU, the largest of several rows, rows put side by side, and a
matrix laid out as one row. A product that is read through nothing else, by one other
product alone, only feeds that one: what the architecture says of it (``layer_feeds``) is
found in the graph itself, which is what runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pocketrec_device.lowering.graph import constant
from pocketrec_quantization.backbone import Feed
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.limits import MAX_LAYER_SIDE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pocketrec_device.lowering.kernels import Product
    from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel, OnnxNode

__all__ = ["Trace", "Traces", "free_flat_rows"]

_FLAT_ROW = "flat.row"
_INT64 = 7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Where the n columns of a value come from.

    Args:
        products: (n,) intp, numbers of products, in the order of the graph.
        channels: (n,) intp, their channels.
        is_rectified: (n,) bool, whether a ReLU was passed.
        is_private: Whether nothing else reads the value, or one on the way.
    """

    products: NDArray[np.intp]
    channels: NDArray[np.intp]
    is_rectified: NDArray[np.bool_]
    is_private: bool


class Traces:
    """The traces of one graph.

    Args:
        model: The graph.
        products: Its products.

    Attributes:
        by_value: Name of a value to its trace; only values that have one.
        feeds: The products that only feed another one, under the products' names.
    """

    def __init__(self, model: OnnxModel, products: Sequence[Product]) -> None:
        self._uses = Counter(name for each in model.graph.node for name in each.input)
        self._uses.update(each.name for each in model.graph.output)
        self._constants = {
            each.name: np.frombuffer(each.raw_data, "<i8").tolist()
            for each in model.graph.initializer
            if each.data_type == _INT64 and len(each.raw_data) % 8 == 0
        }
        self.by_value: dict[str, Trace] = {}
        by_output = {product.output: number for number, product in enumerate(products)}
        for each in model.graph.node:
            output = each.output[0] if each.output else ""
            number = by_output.get(output)
            trace = self._of_node(each) if number is None else _of_product(number, products)
            if trace is not None and trace.channels.size:
                is_private = trace.is_private and self._uses[output] <= 1
                self.by_value[output] = replace(trace, is_private=is_private)
        self.feeds = tuple(
            feed for number in range(len(products)) for feed in self._feeds_of(number, products)
        )

    def _of_node(self, each: OnnxNode) -> Trace | None:
        """Return the trace of a node's first output; privacy is that of its inputs."""
        read = [self.by_value.get(name) for name in each.input]
        if not read or read[0] is None:
            return None
        first = read[0]
        match each.op_type:
            case "Relu":
                return replace(first, is_rectified=np.ones_like(first.is_rectified))
            case "ReduceMax" if self._is_over_rows(each):
                return first
            case "Concat" if _is_side_by_side(each):
                return _joined([trace for trace in read if trace is not None], len(read))
            case "Reshape":
                return self._laid_out(each, first)
            case _:
                return None

    def _is_over_rows(self, each: OnnxNode) -> bool:
        return len(each.input) == 2 and self._constants.get(each.input[1]) == [0]

    def _laid_out(self, each: OnnxNode, trace: Trace) -> Trace | None:
        """Return the trace of (R, n) laid out as one row."""
        match self._constants.get(each.input[1]) if len(each.input) == 2 else None:
            case [1, int(width)] if (
                0 < width <= MAX_LAYER_SIDE and width % trace.channels.size == 0
            ):
                n_rows = width // trace.channels.size
                return replace(
                    trace,
                    products=np.tile(trace.products, n_rows),
                    channels=np.tile(trace.channels, n_rows),
                    is_rectified=np.tile(trace.is_rectified, n_rows),
                )
            case _:
                return None

    def _feeds_of(self, number: int, products: Sequence[Product]) -> list[Feed]:
        """Return the feeds that a product reads."""
        reader = products[number]
        trace = self.by_value.get(reader.x)
        if trace is None or not trace.is_private or trace.channels.size != reader.n_inputs:
            return []
        sources = [int(source) for source in np.unique(trace.products)]
        if any(
            source == number or len(stacked_layers(products[source].name)) > 1 for source in sources
        ):
            return []
        return [_feed(products[source], reader, trace, source) for source in sources]


def _feed(product: Product, reader: Product, trace: Trace, number: int) -> Feed:
    """Return how a product, by its number, feeds the reader of a value."""
    at = np.flatnonzero(trace.products == number)
    by_channel = at[np.argsort(trace.channels[at], kind="stable")]
    return Feed(
        layer=product.name,
        reader=reader.name,
        columns=by_channel.reshape(product.n_outputs, -1),
        is_rectified=bool(trace.is_rectified[at[0]]),
    )


def _of_product(number: int, products: Sequence[Product]) -> Trace:
    channels = np.arange(products[number].n_outputs)
    return Trace(
        products=np.full_like(channels, number),
        channels=channels,
        is_rectified=np.zeros(channels.size, np.bool_),
        is_private=True,
    )


def free_flat_rows(model: OnnxModel, traces: Mapping[str, Trace]) -> None:
    """Let a matrix of channels that is laid out as one row have any number of them.

    Args:
        model: Changed in place.
        traces: Of its values, by name.
    """
    found = False
    for each in model.graph.node:
        if each.op_type == "Reshape" and len(each.input) == 2 and each.output[0] in traces:
            each.input[1], found = _FLAT_ROW, True
    if found:
        model.graph.initializer.append(constant(_FLAT_ROW, np.array([1, -1], np.int64)))


def _is_side_by_side(each: OnnxNode) -> bool:
    return [(one.name, one.i) for one in each.attribute] == [("axis", 1)]


def _joined(parts: Sequence[Trace], n_parts: int) -> Trace | None:
    """Return the trace of values side by side; None if one has none, or nothing could read it."""
    n_columns = sum(part.channels.size for part in parts)
    if len(parts) < n_parts or n_columns > MAX_LAYER_SIDE:
        return None
    return Trace(
        products=np.concatenate([part.products for part in parts]),
        channels=np.concatenate([part.channels for part in parts]),
        is_rectified=np.concatenate([part.is_rectified for part in parts]),
        is_private=all(part.is_private for part in parts),
    )
