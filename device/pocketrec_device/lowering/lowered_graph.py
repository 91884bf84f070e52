# SPDX-License-Identifier: Apache-2.0
"""One function of a bundle with a kernel chosen for each of its products."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pocketrec.errors import IncompatibleArtifactError
from pocketrec_device.lowering.folded import FoldedSource
from pocketrec_device.lowering.graph import (
    constant,
    copy_of,
    require_contrib,
)
from pocketrec_device.lowering.kernels import KERNELS, Product
from pocketrec_device.lowering.rewrites import chunk_causal_attention, share_cache
from pocketrec_device.lowering.traces import Trace, Traces, free_flat_rows
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.graph_file import parse_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import InputOrder, Kernel, Slots, Tensors
    from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel, OnnxNode, OnnxTensor
    from pocketrec_quantization.backbone import Feed

__all__ = ["Layout", "LoweredGraph", "MadeTensors", "Template"]

MadeTensors: TypeAlias = "dict[tuple[object, ...], Tensors]"
"""Values by kernel, product, whether its inputs come in another order, and which sides vary."""

_Needs: TypeAlias = "tuple[Slots, int]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """How a value whose channels were left out, or put in another order, is made whole.

    Args:
        places: (K,) intp, which column of the whole value each of its columns is.
        constants: (n,) float32, what the whole value has in all other columns.
    """

    places: NDArray[np.intp]
    constants: NDArray[np.float32]


class Template:
    """A graph of a bundle, rewritten, before its products are lowered.

    Args:
        data: The content of the part.
        part: Its name, for messages.
        bounds: Where a history is cut for attention; see ``chunk_bounds``.

    Attributes:
        products: What is to be lowered, in the order of the graph; whole.
        feeds: Which of them only feed another one, under the products' names.
        traces: Which channels are the columns of a value, by its name.

    Raises:
        MalformedArtifactError: The bytes are no ONNX file.
        IncompatibleArtifactError: The graph keeps another contract.
    """

    def __init__(self, data: bytes, part: str, bounds: Sequence[int] = ()) -> None:
        self._model = parse_graph(data, part)
        share_cache(self._model)
        chunk_causal_attention(self._model, bounds)
        plain = _products(self._model, part)
        traces = Traces(self._model, plain)
        free_flat_rows(self._model, traces.by_value)
        self.feeds: tuple[Feed, ...] = traces.feeds
        self.products = tuple(_with_feeds(product, self.feeds) for product in plain)
        self.traces: Mapping[str, Trace] = traces.by_value

    def lower(self, kernels: Mapping[str, str], source: ChannelSource) -> LoweredGraph:
        """Return the graph with a kernel for every product.

        Args:
            kernels: Name of a product to name of a kernel.
            source: A plan; the graph fits all plans of the same slots.
        """
        model = copy_of(self._model)
        folded = self.folded(source)
        by_output = {product.output: folded.fitted(product) for product in self.products}
        needs: dict[str, _Needs] = {}
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
            needs[product.name] = _needs(kernel, product, folded)
            lowered = kernel.lower(product, needs[product.name][0])
            nodes.extend(lowered.nodes)
            model.graph.input.extend(lowered.inputs)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        _drop_unused_constants(model)
        require_contrib(model)
        chosen = {product.name: kernels[product.name] for product in self.products}
        return LoweredGraph(model, self, chosen, needs)

    def folded(self, source: ChannelSource) -> FoldedSource:
        """Return a plan's weights without those that would only compute constants.

        Args:
            source: The plan's weights; what this returned is returned as it is.
        """
        if isinstance(source, FoldedSource):
            return source
        return FoldedSource(source, self.products, self.feeds)


class LoweredGraph:
    """A graph that ONNX Runtime can load; ``Template.lower`` makes it.

    Attributes:
        products: What was lowered, in the order of the graph; whole.
        kernels: Name of a product to name of its kernel.
    """

    def __init__(
        self,
        model: OnnxModel,
        template: Template,
        kernels: Mapping[str, str],
        needs: Mapping[str, _Needs],
    ) -> None:
        self._model = model
        self._template = template
        self.products = template.products
        self.kernels = kernels
        self._needs = needs

    def fits(self, source: ChannelSource) -> bool:
        """Whether a plan's weights can take the place of those the graph was made for."""
        folded = self._template.folded(source)
        return all(
            _needs(KERNELS[self.kernels[product.name]], product, folded)
            == self._needs[product.name]
            for product in map(folded.fitted, self.products)
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
        folded = self._template.folded(source)
        for product in map(folded.fitted, self.products):
            kernel = KERNELS[self.kernels[product.name]]
            order = orders.get(product.name)
            orders[product.reader] = kernel.output_order(product, folded)
            key = (kernel.name, product.name, order is not None, product.sides)
            if key not in made:
                made[key] = kernel.tensors(product, folded, order)
            tensors |= made[key]
        return tensors

    def kept_sides(self, source: ChannelSource) -> dict[str, tuple[int, int]]:
        """Return what a plan leaves of every product, by name: inputs and channels.

        Args:
            source: The plan's weights.
        """
        folded = self._template.folded(source)
        fitted = map(folded.fitted, self.products)
        return {product.name: (product.n_inputs, product.n_outputs) for product in fitted}

    def layouts(self, source: ChannelSource) -> dict[str, Layout]:
        """Return how values are made whole, by name; only values that are not.

        Args:
            source: A plan's weights.
        """
        folded = self._template.folded(source)
        kept = [folded.kept(product) for product in self.products]
        orders = [
            KERNELS[self.kernels[product.name]].output_order(folded.fitted(product), folded)
            for product in self.products
        ]
        layouts = {}
        for value, trace in self._template.traces.items():
            number = trace.products[0]
            order = orders[number] if len(np.unique(trace.products)) == 1 else None
            layout = _layout(trace, self.products, kept, order)
            if not np.array_equal(layout.places, np.arange(trace.channels.size)):
                layouts[value] = layout
        return layouts

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


def _needs(kernel: Kernel, product: Product, source: ChannelSource) -> _Needs:
    """Return what of a plan a product's part of the graph depends on: slots, and inputs."""
    n_inputs = product.n_inputs if kernel.has_fixed_inputs else 0
    return kernel.slots(product, source), n_inputs


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
        )
        for each in found
    ]


def _is_bias(tensor: OnnxTensor | None, shape: Sequence[int]) -> bool:
    """Whether a constant is the bias of a product with weights of a shape."""
    return tensor is not None and len(shape) == 2 and len(tensor.raw_data) == 4 * shape[1]


def _with_feeds(product: Product, feeds: Sequence[Feed]) -> Product:
    """Return a product with what the feeds of its graph say of it."""
    own = [feed for feed in feeds if feed.layer == product.name]
    is_reader = any(feed.reader == product.name for feed in feeds)
    if not own and not is_reader:
        return product
    is_alone = sum(feed.reader == own[0].reader for feed in feeds) == 1 if own else False
    in_order = np.arange(product.n_outputs)[:, None]
    return replace(
        product,
        bias=f"{product.name}.folded_bias",
        reader=own[0].reader if is_alone and np.array_equal(own[0].columns, in_order) else "",
        has_varying_inputs=is_reader,
        has_varying_outputs=bool(own),
    )


def _layout(
    trace: Trace, products: Sequence[Product], kept: Sequence[NDArray[np.intp]], order: InputOrder
) -> Layout:
    """Return the layout of a value.

    Args:
        trace: Its columns.
        products: Of the graph.
        kept: The channels that are left of each.
        order: Of the channels that are left, if the value has those of one product.
    """
    is_kept = np.zeros(trace.channels.size, np.bool_)
    constants = np.zeros(trace.channels.size, np.float32)
    for number in np.unique(trace.products):
        at = trace.products == number
        is_kept[at] = np.isin(trace.channels[at], kept[number])
        constants[at] = products[number].bias_values[trace.channels[at]]
    places = np.flatnonzero(is_kept)
    return Layout(
        places=places if order is None else places[order],
        constants=np.where(trace.is_rectified, np.maximum(constants, 0), constants),
    )
