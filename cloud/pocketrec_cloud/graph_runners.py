# SPDX-License-Identifier: Apache-2.0
"""Holds exported functions in the runtime they are for, as a bundle has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pocketrec.telemetry import import_onnxruntime
from pocketrec_quantization.graph_contract import stack_weights, stacked_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Array", "ExecuTorchProgram", "OnnxGraphs", "open_session"]

Array: TypeAlias = NDArray[np.float32]


class OnnxGraphs:
    """Graphs in ONNX Runtime, exactly as the bundle holds them.

    Args:
        graphs: Function to serialised graph.
        weights: The coded matrices of one plan, ``"<layer>.weight"`` to (C, N) float32.
    """

    name = "onnxruntime"

    def __init__(self, graphs: Mapping[str, bytes], weights: Mapping[str, Array]) -> None:
        self._sessions = {name: open_session(graph) for name, graph in graphs.items()}
        self._weights = {
            name: {
                entry.name: stack_weights(entry.name, weights)
                for entry in session.get_inputs()
                if stacked_layers(entry.name)
            }
            for name, session in self._sessions.items()
        }

    def score(self, h: Array, candidates: Array) -> Array:
        """See ``Functions.score``."""
        return self.run("score", {"h": h, "candidates": candidates})["scores"]

    def run(self, function: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a function under the plan; returns its outputs by name."""
        session = self._sessions[function]
        names = [entry.name for entry in session.get_outputs()]
        outputs = session.run(names, {**feeds, **self._weights[function]})
        return dict(zip(names, outputs, strict=True))


class ExecuTorchProgram:
    """One program in ExecuTorch.

    Args:
        program: A ``.pte``.
        methods: Those to load.
    """

    name = "executorch"

    def __init__(self, program: bytes, methods: Sequence[str]) -> None:
        from executorch.runtime import Runtime

        self._program = Runtime.get().load_program(program)  # methods need it alive
        self._methods = {name: self._program.load_method(name) for name in methods}

    def score(self, h: Array, candidates: Array) -> Array:
        """See ``Functions.score``."""
        return self.run("score", h, candidates)[0]

    def run(self, method: str, *arrays: Array) -> list[Array]:
        """Run a method; returns its outputs in order."""
        inputs = [_tensor(array) for array in arrays]
        return [output.numpy().copy() for output in self._methods[method].execute(inputs)]


def open_session(graph: bytes) -> Any:
    """Return a graph in ONNX Runtime, exactly as it is."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _tensor(array: Array) -> torch.Tensor:
    """Wrap an array; executorch aborts at the strides that NumPy gives to no elements at all."""
    if not array.size:
        return torch.zeros(array.shape)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
