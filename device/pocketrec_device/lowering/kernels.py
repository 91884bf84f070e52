# SPDX-License-Identifier: Apache-2.0
"""Three ways to store and compute a product of a graph.

========  ==================  ===========================  ==============================
kernel    stored              computed                     ONNX Runtime operator
========  ==================  ===========================  ==============================
fp32      float32             float32                      Gemm
int8      8-bit codes, scale  int8 weights, uint8 inputs   DynamicQuantizeMatMul
packed    2/4/8-bit codes     the same, inputs int8        MatMulNBits, one per width
========  ==================  ===========================  ==============================

No runtime computes different widths for the channels of one tensor. ``packed`` groups the
channels of a product by width, multiplies once per group, and puts the groups side by
side; the permutation is folded into the next product, or undone by one Gather. How many
channels have which width (the *slots*) is part of such a graph; which ones they are is data.

Where one product alone reads another, channels that are off are left out of both
(``folded``): sides and bias of these products depend on the plan, too.

``int8`` and ``packed`` also round the *inputs* to 8 bits, ``packed`` row by row, ``int8``
all rows of a history at one scale: their results are close to float32, not equal. ``fp32``
is exact but for the order of additions.

Source: runtime.md's measurements for the operators; grouping by width is our choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pocketrec_device.lowering.graph import CONTRIB, declare, node
from pocketrec_quantization.levels import count_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_proto.v1.onnx_subset_pb2 import OnnxNode, OnnxValueInfo

__all__ = ["KERNELS", "InputOrder", "Kernel", "Lowered", "Product", "Slots", "Tensors"]

Tensors: TypeAlias = "dict[str, NDArray[np.generic]]"
"""Values that a lowered graph takes as inputs, by name."""

InputOrder: TypeAlias = "NDArray[np.int64] | NDArray[np.intp] | None"
"""A permutation, or None for things as they are."""

Slots: TypeAlias = tuple[tuple[int, int], ...]
"""(bits, channels) of every width in a product, narrowest first."""

_MIN_BLOCK = 16
_MAX_BLOCKS = {2: 128, 4: 1024, 8: 1024}  # 2-bit weights have no fast kernel for longer blocks
_INT8_INPUTS = 4  # MatMulNBits' accuracy_level: quantize the inputs too


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """One product of a graph: ``output = x @ weights + bias``.

    Args:
        name: Of the graph input that takes the weights, (N, C) float32.
        x: Name of the left side, (M, N).
        bias: Name of the bias, (C,): a constant, or an input if it varies.
        output: Name of the result, (M, C).
        n_inputs: N.
        n_outputs: C.
        bias_values: (C,) float32, the bias while no channel is left out.
        reader: The product that alone reads the result, element by element or directly;
            empty if there is none.
        has_varying_inputs: Whether plans leave out inputs.
        has_varying_outputs: Whether plans leave out channels.
    """

    name: str
    x: str
    bias: str
    output: str
    n_inputs: int
    n_outputs: int
    bias_values: NDArray[np.float32]
    reader: str = ""
    has_varying_inputs: bool = False
    has_varying_outputs: bool = False

    @property
    def has_varying_bias(self) -> bool:
        """Whether the bias depends on the plan."""
        return self.has_varying_inputs or self.has_varying_outputs

    @property
    def sides(self) -> tuple[int | str, int | str]:
        """N and C, or a name for a side that varies."""
        n_inputs = f"{self.name}.inputs" if self.has_varying_inputs else self.n_inputs
        n_outputs = f"{self.name}.channels" if self.has_varying_outputs else self.n_outputs
        return n_inputs, n_outputs

    @property
    def is_order_free(self) -> bool:
        """Whether the order of the result is nobody's business but the reader's."""
        return bool(self.reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """What takes a product's place in the graph.

    Args:
        nodes: In order.
        inputs: Declarations of the values that depend on the plan.
    """

    nodes: tuple[OnnxNode, ...]
    inputs: tuple[OnnxValueInfo, ...]


class Kernel(ABC):
    """A way to store and compute a product."""

    name: str
    computed: str
    """Type of the arithmetic, for reports."""
    is_exact: bool
    """Whether inputs stay float32."""
    has_fixed_inputs: bool = False
    """Whether a lowered product fits one number of inputs only, even where they vary."""

    def slots(self, product: Product, source: ChannelSource) -> Slots:
        """Return what of a plan the graph itself depends on: nothing, unless overridden."""
        del product, source
        return ()

    @abstractmethod
    def lower(self, product: Product, slots: Slots) -> Lowered:
        """Return the nodes that compute the product."""

    @abstractmethod
    def tensors(
        self, product: Product, source: ChannelSource, input_order: InputOrder = None
    ) -> Tensors:
        """Return the values that the lowered product takes, under one plan.

        Args:
            product: What was lowered.
            source: The plan's weights.
            input_order: Which input comes at each place; None = as they are.
        """

    def output_order(self, product: Product, source: ChannelSource) -> InputOrder:
        """Return which channel comes at each place of the result; None = as they are."""
        del product, source
        return None

    @abstractmethod
    def stored(self, widths: NDArray[np.uint8]) -> dict[int, int]:
        """Return how many of a layer's channels are kept at which bits."""


class Float32(Kernel):
    """Weights dequantized once, when the plan is applied."""

    name = "fp32"
    computed = "float32"
    is_exact = True

    def lower(self, product: Product, slots: Slots) -> Lowered:
        """See ``Kernel.lower``."""
        del slots
        inputs = [product.x, product.name, product.bias]
        return Lowered(
            nodes=(node("Gemm", inputs, [product.output]),),
            inputs=(declare(product.name, product.sides, np.float32), *_declared_bias(product)),
        )

    def tensors(
        self, product: Product, source: ChannelSource, input_order: InputOrder = None
    ) -> Tensors:
        """See ``Kernel.tensors``."""
        weights = source.transposed(product.name)
        if input_order is not None:
            weights = weights[input_order]
        return {product.name: weights, **_varying_bias(product, source)}

    def stored(self, widths: NDArray[np.uint8]) -> dict[int, int]:
        """See ``Kernel.stored``."""
        return {32: len(widths)}


class Int8(Kernel):
    """Codes of every width in one byte each: 2- and 4-bit codes are small int8 numbers."""

    name = "int8"
    computed = "int8"
    is_exact = False

    def lower(self, product: Product, slots: Slots) -> Lowered:
        """See ``Kernel.lower``."""
        del slots
        scales = f"{product.name}.scales"
        inputs = [product.x, product.name, scales, "", product.bias]
        return Lowered(
            nodes=(node("DynamicQuantizeMatMul", inputs, [product.output], domain=CONTRIB),),
            inputs=(
                declare(product.name, product.sides, np.int8),
                declare(scales, product.sides[1:], np.float32),
                *_declared_bias(product),
            ),
        )

    def tensors(
        self, product: Product, source: ChannelSource, input_order: InputOrder = None
    ) -> Tensors:
        """See ``Kernel.tensors``."""
        channels = source.channels(product.name)
        codes = channels.codes
        return {
            product.name: codes if input_order is None else codes[input_order],
            f"{product.name}.scales": channels.scales,
            **_varying_bias(product, source),
        }

    def stored(self, widths: NDArray[np.uint8]) -> dict[int, int]:
        """See ``Kernel.stored``."""
        return {8: len(widths)}


class Packed(Kernel):
    """Codes at their own width, grouped.

    Where the product's only reader is another product, the channels stay grouped and the
    reader's inputs are put in the same order: the permutation costs nothing then. Elsewhere
    a Gather restores the order. All pruned channels share one group of a single channel of
    zeros, which the Gather reads as often as needed.
    """

    name = "packed"
    computed = "int2/int4/int8"
    is_exact = False
    has_fixed_inputs = True

    def slots(self, product: Product, source: ChannelSource) -> Slots:
        """See ``Kernel.slots``: the count of channels per width."""
        return tuple(count_widths(source.widths(product.name)).items())

    def stays_grouped(self, product: Product, slots: Slots) -> bool:
        """Return whether the result comes group by group, for its reader to make up for."""
        return product.is_order_free and all(bits > 0 for bits, _ in slots)

    def lower(self, product: Product, slots: Slots) -> Lowered:
        """See ``Kernel.lower``."""
        name = product.name
        has_pruned = any(bits == 0 for bits, _ in slots)
        nodes, inputs, groups = [], [], []
        for bits, n_channels in _stored_groups(slots):
            codes, scales, bias, out = (
                f"{name}.{kind}{bits}" for kind in ("codes", "scales", "bias", "out")
            )
            block = _block_size(product.n_inputs, bits)
            n_blocks = -(-product.n_inputs // block)
            declared = (n_channels, n_blocks, block * bits // 8)
            inputs.append(declare(codes, declared, np.uint8))
            inputs.append(declare(scales, (n_channels, n_blocks), np.float32))
            operands = [product.x, codes, scales]
            if not has_pruned:
                inputs.append(declare(bias, (n_channels,), np.float32))
                operands += ["", "", bias]
            attributes = {"bits": bits, "K": product.n_inputs, "N": n_channels}
            nodes.append(
                node(
                    "MatMulNBits",
                    operands,
                    [out],
                    domain=CONTRIB,
                    block_size=block,
                    accuracy_level=_INT8_INPUTS,
                    **attributes,
                )
            )
            groups.append(out)
        if self.stays_grouped(product, slots):
            nodes.append(node("Concat", groups, [product.output], axis=1))
            return Lowered(nodes=tuple(nodes), inputs=tuple(inputs))
        order, grouped, unbiased = (f"{name}.{kind}" for kind in ("order", "grouped", "unbiased"))
        inputs.append(declare(order, (product.n_outputs,), np.int64))
        nodes.append(node("Concat", groups, [grouped], axis=1))
        restored = unbiased if has_pruned else product.output
        nodes.append(node("Gather", [grouped, order], [restored], axis=1))
        if has_pruned:
            nodes.append(node("Add", [unbiased, product.bias], [product.output]))
            inputs.extend(_declared_bias(product))
        return Lowered(nodes=tuple(nodes), inputs=tuple(inputs))

    def tensors(
        self, product: Product, source: ChannelSource, input_order: InputOrder = None
    ) -> Tensors:
        """See ``Kernel.tensors``."""
        channels = source.channels(product.name)
        all_codes = channels.codes if input_order is None else channels.codes[input_order]
        slots = tuple(count_widths(channels.widths).items())
        has_pruned = any(bits == 0 for bits, _ in slots)
        order = np.empty(product.n_outputs, np.int64)
        bias = source.bias(product)
        tensors: Tensors = _varying_bias(product, source) if has_pruned else {}
        start = 0
        for bits, n_channels in _stored_groups(slots):
            members = np.flatnonzero(channels.widths == bits)
            order[members] = start + np.arange(len(members))
            codes, scales = all_codes[:, members].T, channels.scales[members]
            if n_channels > len(members):  # the channel of zeros
                order[channels.widths == 0] = start + len(members)
                codes = np.pad(codes, ((0, 1), (0, 0)))
                scales = np.pad(scales, (0, 1))
            packed = _pack(codes, bits, _block_size(product.n_inputs, bits))
            tensors[f"{product.name}.codes{bits}"] = packed
            repeated = np.repeat(scales[:, None], packed.shape[1], axis=1)
            tensors[f"{product.name}.scales{bits}"] = np.ascontiguousarray(repeated)
            if not has_pruned:
                tensors[f"{product.name}.bias{bits}"] = bias[members]
            start += n_channels
        if not self.stays_grouped(product, slots):
            tensors[f"{product.name}.order"] = order
        return tensors

    def output_order(self, product: Product, source: ChannelSource) -> InputOrder:
        """See ``Kernel.output_order``."""
        if not self.stays_grouped(product, self.slots(product, source)):
            return None
        return np.argsort(source.widths(product.name), kind="stable")

    def stored(self, widths: NDArray[np.uint8]) -> dict[int, int]:
        """See ``Kernel.stored``."""
        return count_widths(widths)


def _declared_bias(product: Product) -> list[OnnxValueInfo]:
    """Return the declaration of a bias, if it varies."""
    if not product.has_varying_bias:
        return []
    return [declare(product.bias, product.sides[1:], np.float32)]


def _varying_bias(product: Product, source: ChannelSource) -> Tensors:
    return {product.bias: source.bias(product)} if product.has_varying_bias else {}


def _block_size(n_inputs: int, bits: int) -> int:
    """Return how many weights share a scale in MatMulNBits: a power of two."""
    wanted = 1 << (n_inputs - 1).bit_length()
    return min(max(wanted, _MIN_BLOCK), _MAX_BLOCKS[bits])


def _stored_groups(slots: Slots) -> list[tuple[int, int]]:
    """Return (bits, channels) of every product to make; the first takes the channel of zeros."""
    groups = [[bits, n_channels] for bits, n_channels in slots if bits > 0]
    if len(groups) < len(slots):
        groups = groups or [[2, 0]]
        groups[0][1] += 1
    return [(bits, n_channels) for bits, n_channels in groups]


def _pack(codes: NDArray[np.int8], bits: int, block: int) -> NDArray[np.uint8]:
    """Pack signed codes as MatMulNBits reads them.

    Args:
        codes: (C, N) int8.
        bits: 2, 4 or 8.
        block: Weights per scale.

    Returns:
        (C, blocks, block * bits / 8) uint8: codes plus 2**(bits-1), lowest bits first;
        what fills the last block stands for zero.
    """
    n_channels, n_inputs = codes.shape
    zero = 1 << (bits - 1)
    n_blocks = -(-n_inputs // block)
    padded = np.full((n_channels, n_blocks * block), zero, np.uint8)
    padded[:, :n_inputs] = (codes.astype(np.int16) + zero).astype(np.uint8)
    per_byte = 8 // bits
    digits = padded.reshape(n_channels, n_blocks, -1, per_byte)
    shifts = (bits * np.arange(per_byte)).astype(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(digits << shifts, axis=-1)
    return packed


KERNELS: Mapping[str, Kernel] = {kernel.name: kernel for kernel in (Float32(), Int8(), Packed())}
"""Every kernel, by name."""
