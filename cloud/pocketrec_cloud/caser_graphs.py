# SPDX-License-Identifier: Apache-2.0
"""Writes the function that turns a Caser's window into a state as an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec_cloud.graph_writer import GraphWriter
from pocketrec_quantization.backbone import coded_layers
from pocketrec_quantization.graph_contract import stacked_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pocketrec_quantization.backbone import BackboneConfig

__all__ = ["write_caser_step"]


def write_caser_step(dense: Mapping[str, NDArray[np.float32]], config: BackboneConfig) -> bytes:
    """Write the step: window (L, D), oldest event first, to h (1, D).

    Args:
        dense: The biases, by name.
        config: The architecture.
    """
    return _Step(dense, config).write()


class _Step(GraphWriter):
    """All filters over one window, one product each, and the layer that joins them."""

    def __init__(self, dense: Mapping[str, NDArray[np.float32]], config: BackboneConfig) -> None:
        super().__init__("step")
        self._dense = dense
        self._config = config

    def write(self) -> bytes:
        dim, n_vertical = self._config.embedding_dim, self._config.n_vertical
        window = self.input("window", (self._config.window, dim))
        pooled = [self._horizontal(window, height) for height in self._config.heights]
        joined = pooled[0]
        if len(pooled) > 1:
            joined = self.node("Concat", pooled, "horizontal.pooled", axis=1)
        strongest = self.node("Relu", [joined], "horizontal.strongest")
        columns = self.node("Transpose", [window], "columns")
        mixed = self._linear(columns, "vertical", "vertical/out")
        flat = self._flat(mixed, 1, dim * n_vertical, "vertical.flat")
        responses = self.node("Concat", [flat, strongest], "responses", axis=1)
        self.output("h", (1, dim))
        self._linear(responses, "fc", "h")
        return self.serialise()

    def _horizontal(self, window: str, height: int) -> str:
        """Return each filter's largest response, (1, n_horizontal), before the ReLU."""
        name = f"horizontal.{height}"
        n_rows, dim = self._config.window, self._config.embedding_dim
        n_positions = n_rows - height + 1
        stretches = window
        if height > 1:
            if n_positions > 1:
                rows = np.arange(n_positions)[:, None] + np.arange(height)
                indices = self.constant(f"{name}.rows", rows.astype(np.int64))
                stretches = self.node("Gather", [window, indices], f"{name}.gathered", axis=0)
            stretches = self._flat(stretches, n_positions, height * dim, f"{name}.stretches")
        responses = self._linear(stretches, name, f"{name}/out")
        if n_positions == 1:
            return responses
        axes = self.constant("positions", np.zeros(1, np.int64))
        return self.node("ReduceMax", [responses, axes], f"{name}.pooled", keepdims=1)

    def _linear(self, x: str, layer: str, output: str) -> str:
        """Multiply by a coded matrix and add its bias."""
        weights = stacked_name([layer])
        bias = self._dense[f"{layer}.bias"]
        n_inputs = self._n_inputs(layer)
        self.input(weights, (n_inputs, len(bias)))
        return self.node("Gemm", [x, weights, self.constant(f"{layer}.bias", bias)], output)

    def _flat(self, x: str, n_rows: int, width: int, output: str) -> str:
        shape = self.constant(f"{output}.shape", np.array([n_rows, width], np.int64))
        return self.node("Reshape", [x, shape], output)

    def _n_inputs(self, layer: str) -> int:
        sizes = {each.name: each.n_elements for each in coded_layers(self._config)}
        return sizes[layer]
