# SPDX-License-Identifier: Apache-2.0
"""How attention takes in whole histories: which function computes one, with which biases."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pocketrec_device.lowering.lowered_graph import Template
from pocketrec_device.lowering.rewrites import chunk_bounds
from pocketrec_quantization.attention_bias import RingBias, prefill_bias
from pocketrec_quantization.bundle import PREFILL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.lowering.kernels import Tensors

__all__ = ["AttentionHistories"]


class AttentionHistories:
    """Functions and biases of a model's histories.

    Args:
        relative_bias: (n_blocks, H, L) float32, by distance.

    Attributes:
        ring: The biases of single steps.
    """

    def __init__(self, relative_bias: NDArray[np.float32]) -> None:
        self._relative_bias = relative_bias
        self._window = relative_bias.shape[-1]
        self._bounds = chunk_bounds(self._window)
        self._full_bias: Tensors | None = None
        self.ring = RingBias(relative_bias)

    def templates(self, prefill: bytes) -> dict[str, Template]:
        """Return the functions that take in histories, by name.

        Args:
            prefill: The bundle's graph.

        Raises:
            MalformedArtifactError: The bytes are no ONNX file.
            IncompatibleArtifactError: The graph keeps another contract.
        """
        templates = {"full": Template(prefill, PREFILL, self._bounds)}
        if self._is_cut:
            templates["partial"] = Template(prefill, PREFILL)
        return templates

    def function_of(self, n_events: int) -> str:
        """Return the name of the function that takes in a history of so many events."""
        return "full" if n_events == self._window or not self._is_cut else "partial"

    def bias_of(self, n_events: int) -> Tensors:
        """Return what a history takes as bias, by name of the graph's input."""
        if n_events == self._window and self._full_bias is not None:
            return self._full_bias
        is_cut = self._is_cut and self.function_of(n_events) == "full"
        bounds = self._bounds if is_cut else (0, n_events)
        biases: Tensors = {}
        for block, relative in enumerate(self._relative_bias):
            name = f"blocks.{block}.bias"
            bias = prefill_bias(relative, n_events)[None]
            if block == len(self._relative_bias) - 1:
                biases[name] = np.ascontiguousarray(bias[:, :, -1:])
                continue
            for number, (start, end) in enumerate(pairwise(bounds)):
                part = np.ascontiguousarray(bias[:, :, start:end, :end])
                biases[f"{name}.{number}" if is_cut else name] = part
        if n_events == self._window:
            self._full_bias = biases  # the usual history of a cold start
        return biases

    @property
    def _is_cut(self) -> bool:
        """Whether attention over a full window is computed in chunks."""
        return len(self._bounds) > 2
