# SPDX-License-Identifier: Apache-2.0
"""One function of a bundle with a kernel chosen for each of its products."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pocketrec.errors import IncompatibleArtifactError
from pocketrec_device.lowering.graph import (
    constant,
    copy_of,
    require_contrib,
)
from pocketrec_device.lowering.kernels import KERNELS, Product
from pocketrec_device.lowering.rewrites import chunk_causal_attention, share_cache
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.graph_file import parse_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import InputOrder, Slots, Tensors
    from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel, OnnxNode, OnnxTensor

__all__ = ["LoweredGraph", "MadeTensors", "Template"]

MadeTensors: TypeAlias = "dict[tuple[str, str, bool], Tensors]"
"""Values by kernel, product, and whether its inputs come in another order."""


class Template:
    """A graph of a bundle, rewritten, before its products are lowered.

    Args:
        data: The content of the part.
        part: Its name, for messages.
        bounds: Where a history is cut for attention; see ``chunk_bounds``.

    Attributes:
        products: What is to be lowered, in the order of the graph.

    Raises:
        MalformedArtifactError: The bytes are no ONNX file.
        IncompatibleArtifactError: The graph keeps another contract.
    """

    def __init__(self, data: bytes, part: str, bounds: Sequence[int] = ()) -> None:
        self._model = parse_graph(data, part)
        share_cache(self._model)
        chunk_causal_attention(self._model, bounds)
        self.products = tuple(_products(self._model, part))

    def lower(self, kernels: Mapping[str, str], source: ChannelSource) -> LoweredGraph:
        """Return the graph with a kernel for every product.

        Args:
            kernels: Name of a product to name of a kernel.
            source: A plan; the graph fits all plans of the same slots.
        """
        model = copy_of(self._model)
        by_output = {product.output: product for product in self.products}
        slots: dict[str, Slots] = {}
        nodes: list[OnnxNode] = []
        del model.graph.input[:]
        model.graph.input.extend(
            each for each in self._model.graph.input if not stacked_layers(each.name)
        )
        for each in self._model.graph.node:
            product = by_output.get(each.output[0])
            if product is None:
                nodes.append(each)
                continue
            kernel = KERNELS[kernels[product.name]]
            slots[product.name] = kernel.slots(product, source)
            lowered = kernel.lower(product, slots[product.name])
            nodes.extend(lowered.nodes)
            model.graph.input.extend(lowered.inputs)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        _drop_unused_constants(model)
        require_contrib(model)
        chosen = {product.name: kernels[product.name] for product in self.products}
        return LoweredGraph(model, self.products, chosen, slots)


class LoweredGraph:
    """A graph that ONNX Runtime can load; ``Template.lower`` makes it.

    Attributes:
        products: What was lowered, in the order of the graph.
        kernels: Name of a product to name of its kernel.
        slots: Name of a product to what of a plan its part of the graph depends on.
    """

    def __init__(
        self,
        model: OnnxModel,
        products: Sequence[Product],
        kernels: Mapping[str, str],
        slots: Mapping[str, Slots],
    ) -> None:
        self._model = model
        self.products = products
        self.kernels = kernels
        self.slots = slots

    def fits(self, source: ChannelSource) -> bool:
        """Whether a plan's weights can take the place of those the graph was made for."""
        return all(
            KERNELS[self.kernels[product.name]].slots(product, source) == self.slots[product.name]
            for product in self.products
        )

    def tensors(self, source: ChannelSource, made: MadeTensors | None = None) -> Tensors:
        """Return what the graph takes under a plan, by name.

        Args:
            source: The plan's weights.
            made: What other graphs took under the same plan; used again, and added to.
        """
        made = {} if made is None else made
        tensors: Tensors = {}
        orders: dict[str, InputOrder] = {}
        for product in self.products:
            kernel = KERNELS[self.kernels[product.name]]
            order = orders.get(product.name)
            orders[product.reader] = kernel.output_order(product, source)
            key = (kernel.name, product.name, order is not None)
            if key not in made:
                made[key] = kernel.tensors(product, source, order)
            tensors |= made[key]
        return tensors

    def output_orders(self, source: ChannelSource) -> dict[str, NDArray[np.intp]]:
        """Return which channel comes at each place of a result, where not each at its own.

        Args:
            source: A plan's weights.

        Returns:
            Name of a product to (C,) integer.
        """
        orders = {
            product.name: KERNELS[self.kernels[product.name]].output_order(product, source)
            for product in self.products
        }
        return {name: order.astype(np.intp) for name, order in orders.items() if order is not None}

    def with_inputs(self) -> bytes:
        """Return the file with the plan's values as inputs: another plan needs no new session."""
        return self._model.SerializeToString()

    def with_constants(self, tensors: Tensors) -> bytes:
        """Return the file with the plan's values inside: ONNX Runtime may rearrange them."""
        model = copy_of(self._model)
        inputs = [each for each in model.graph.input if each.name not in tensors]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.graph.initializer.extend(constant(name, value) for name, value in tensors.items())
        return model.SerializeToString()


def _drop_unused_constants(model: OnnxModel) -> None:
    used = {name for each in model.graph.node for name in each.input}
    kept = [copy_of(tensor) for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _products(model: OnnxModel, part: str) -> list[Product]:
    """Return the products of a graph; each comes before its reader."""
    graph = model.graph
    shapes = {
        each.name: [dimension.dim_value for dimension in each.type.tensor_type.shape.dim]
        for each in graph.input
        if stacked_layers(each.name)
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for each in graph.node for name in each.input)
    found: list[OnnxNode] = []
    for each in graph.node:
        name = each.input[1] if len(each.input) == 3 else ""
        is_plain = each.op_type == "Gemm" and not each.attribute and uses[name] == 1
        if is_plain and name in shapes and _is_bias(constants.get(each.input[2]), shapes[name]):
            found.append(each)
    strays = shapes.keys() - {each.input[1] for each in found}
    if strays:
        raise IncompatibleArtifactError(
            f"{part}: expected every input of weights to feed one Gemm with a constant bias, but "
            f"{min(strays)!r} does not; build the bundle with this release of pocketrec"
        )
    return [
        Product(
            name=each.input[1],
            x=each.input[0],
            bias=each.input[2],
            output=each.output[0],
            n_inputs=shapes[each.input[1]][0],
            n_outputs=shapes[each.input[1]][1],
            bias_values=np.frombuffer(constants[each.input[2]].raw_data, np.float32),
            reader=_only_reader(model, each.output[0], found),
        )
        for each in found
    ]


def _is_bias(tensor: OnnxTensor | None, shape: Sequence[int]) -> bool:
    """Whether a constant is the bias of a product with weights of a shape."""
    return tensor is not None and len(shape) == 2 and len(tensor.raw_data) == 4 * shape[1]


def _only_reader(model: OnnxModel, value: str, products: Sequence[OnnxNode]) -> str:
    """Return the name of the one product that reads a value, through Relu or directly."""
    outputs = {each.name for each in model.graph.output}
    readers = _readers(model, value)
    if len(readers) == 1 and readers[0].op_type == "Relu" and value not in outputs:
        value = readers[0].output[0]
        readers = _readers(model, value)
    for each in products:
        if readers == [each] and each.input[0] == value and value not in outputs:
            return each.input[1]
    return ""


def _readers(model: OnnxModel, value: str) -> list[OnnxNode]:
    return [each for each in model.graph.node if value in each.input]
