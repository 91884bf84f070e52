# SPDX-License-Identifier: Apache-2.0
"""The channels that one product of a graph multiplies by: several layers, one below the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import BackendError
from pocketrec_quantization.graph_contract import stack_weights, stacked_layers
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.quantizer import narrow_codes, read_channels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from pocketrec_device.lowering.kernels import Product
    from pocketrec_quantization.frozen import FrozenModel

__all__ = ["ChannelSource", "Channels", "FloatSource", "FrozenStore", "PlanSource"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channels:
    """C channels of N elements as integer codes.

    Args:
        codes: (N, C) int8, within the range of each channel's width.
        scales: (C,) float32; a weight is code times scale.
        widths: (C,) uint8, bits: 0, 2, 4 or 8.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    widths: NDArray[np.uint8]


class ChannelSource(ABC):
    """Where a lowering gets weights from; made for one plan."""

    @abstractmethod
    def transposed(self, name: str) -> NDArray[np.float32]:
        """Return what a graph input takes: (N, C) float32."""

    @abstractmethod
    def channels(self, name: str) -> Channels:
        """Return the same as codes."""

    @abstractmethod
    def widths(self, name: str) -> NDArray[np.uint8]:
        """Return the width of every channel, (C,) uint8."""

    def off(self, name: str) -> NDArray[np.bool_]:
        """Return which channels have 0 bits, (C,) bool."""
        is_off: NDArray[np.bool_] = self.widths(name) == 0
        return is_off

    def bias(self, product: Product) -> NDArray[np.float32]:
        """Return what a product adds, (C,) float32."""
        return product.bias_values


class FrozenStore:
    """The frozen weights of a bundle, stacked and transposed as its graphs multiply them.

    Args:
        frozen: The shared weights; not kept.
        names: Of the graph inputs that take weights.

    Raises:
        KeyError: A name stacks a layer that there is not.
    """

    def __init__(self, frozen: FrozenModel, names: Iterable[str]) -> None:
        self._layers = frozen.layers
        self._stacks: dict[str, _Stack] = {}
        for name in dict.fromkeys(names):
            parts = [frozen.matrices[layer] for layer in stacked_layers(name)]
            codes = np.concatenate([part.codes for part in parts])
            self._stacks[name] = _Stack(
                codes=np.ascontiguousarray(codes.T),
                scales=np.concatenate([part.scales for part in parts], axis=1),
                multipliers=np.concatenate([part.multipliers for part in parts], axis=1),
            )

    def under(self, widths: NDArray[np.uint8]) -> PlanSource:
        """Return the weights at the widths of a plan.

        Args:
            widths: (C_total,) uint8, bits per channel, in the order of the layers.

        Raises:
            ConfigError: ``widths`` has another length.
        """
        return PlanSource(self._stacks, split_by_layer(widths, self._layers))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stack:
    """As ``FrozenMatrix``, but codes are (N, C)."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    multipliers: NDArray[np.uint16]


class PlanSource(ChannelSource):
    """The frozen weights under one plan; ``FrozenStore.under`` makes it."""

    def __init__(
        self, stacks: Mapping[str, _Stack], widths: Mapping[str, NDArray[np.uint8]]
    ) -> None:
        self._stacks = stacks
        self._widths = widths

    def transposed(self, name: str) -> NDArray[np.float32]:
        """See ``ChannelSource.transposed``."""
        weights, scales = self._read(name)
        weights *= scales
        return weights

    def channels(self, name: str) -> Channels:
        """See ``ChannelSource.channels``."""
        codes, scales = self._read(name)
        return Channels(codes=codes.astype(np.int8), scales=scales, widths=self.widths(name))

    def widths(self, name: str) -> NDArray[np.uint8]:
        """See ``ChannelSource.widths``."""
        return np.concatenate([self._widths[layer] for layer in stacked_layers(name)])

    def _read(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return codes (N, C) and scales (C,)."""
        stack = self._stacks[name]
        reading = read_channels(stack.scales, stack.multipliers, self.widths(name))
        codes = narrow_codes(stack.codes, reading.multipliers[None], reading.largest[None])
        return codes, reading.scales


class FloatSource(ChannelSource):
    """Float weights that were never quantized: the control of benchmarks.

    Args:
        weights: ``"<layer>.weight"`` to (C_l, N_l) float32.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self._weights = weights

    def transposed(self, name: str) -> NDArray[np.float32]:
        """See ``ChannelSource.transposed``."""
        return stack_weights(name, self._weights)

    def channels(self, name: str) -> Channels:
        """Refuse: there are no codes.

        Raises:
            BackendError: Always.
        """
        raise BackendError(f"{name}: float weights have no codes; use compute='fp32'")

    def widths(self, name: str) -> NDArray[np.uint8]:
        """Refuse, as ``channels`` does.

        Raises:
            BackendError: Always.
        """
        raise BackendError(f"{name}: float weights have no widths; use compute='fp32'")

    def off(self, name: str) -> NDArray[np.bool_]:
        """See ``ChannelSource.off``: none are."""
        return np.zeros(self.transposed(name).shape[1], np.bool_)
