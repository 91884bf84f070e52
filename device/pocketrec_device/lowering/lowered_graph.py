# SPDX-License-Identifier: Apache-2.0
"""One function of a bundle with a kernel chosen for each of its products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketrec.errors import IncompatibleArtifactError
from pocketrec_device.lowering.graph import (
    constant,
    copy_of,
    is_constant,
    parse_graph,
    require_contrib,
)
from pocketrec_device.lowering.kernels import KERNELS, Product
from pocketrec_device.lowering.rewrites import chunk_causal_attention, share_cache
from pocketrec_quantization.graph_contract import stacked_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import Slots, Tensors
    from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel, OnnxNode

__all__ = ["LoweredGraph", "Template"]


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
        require_contrib(model)
        chosen = {product.name: kernels[product.name] for product in self.products}
        return LoweredGraph(model, self.products, chosen, slots)


class LoweredGraph:
    """A graph that ONNX Runtime can load; ``Template.lower`` makes it.

    Attributes:
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
        self._products = products
        self.kernels = kernels
        self.slots = slots

    def fits(self, source: ChannelSource) -> bool:
        """Whether a plan's weights can take the place of those the graph was made for."""
        return all(
            KERNELS[self.kernels[product.name]].slots(product, source) == self.slots[product.name]
            for product in self._products
        )

    def tensors(
        self, source: ChannelSource, made: dict[tuple[str, str], Tensors] | None = None
    ) -> Tensors:
        """Return what the graph takes under a plan, by name.

        Args:
            source: The plan's weights.
            made: What other graphs took under the same plan, by kernel and product; used
                again, and added to.
        """
        made = {} if made is None else made
        tensors: Tensors = {}
        for product in self._products:
            kernel = self.kernels[product.name]
            if (kernel, product.name) not in made:
                made[kernel, product.name] = KERNELS[kernel].tensors(product, source)
            tensors |= made[kernel, product.name]
        return tensors

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


def _products(model: OnnxModel, part: str) -> list[Product]:
    graph = model.graph
    shapes = {
        each.name: [dimension.dim_value for dimension in each.type.tensor_type.shape.dim]
        for each in graph.input
        if stacked_layers(each.name)
    }
    found = []
    for each in graph.node:
        name = each.input[1] if len(each.input) == 3 else ""
        if each.op_type == "Gemm" and name in shapes and is_constant(graph, each.input[2]):
            n_inputs, n_outputs = shapes.pop(name)
            found.append(
                Product(
                    name=name,
                    x=each.input[0],
                    bias=each.input[2],
                    output=each.output[0],
                    n_inputs=n_inputs,
                    n_outputs=n_outputs,
                )
            )
    if shapes:
        raise IncompatibleArtifactError(
            f"{part}: expected every input of weights to feed one Gemm with a constant bias, but "
            f"{min(shapes)!r} does not; build the bundle with this release of pocketrec"
        )
    return found
