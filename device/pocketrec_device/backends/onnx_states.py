# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime bound to the memory of states, once and for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import BackendError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.attention_state import StateBuffers
    from pocketrec_device.backends.onnx import OnnxAttentionBackend, OnnxWindowBackend
    from pocketrec_device.lowering.kernels import Tensors
    from pocketrec_device.window_state import WindowBuffers

__all__ = ["OnnxAttention", "OnnxWindow"]


class OnnxWindow:
    """The bindings of one session's window.

    Args:
        backend: What computes.
        buffers: What is bound.
    """

    def __init__(self, backend: OnnxWindowBackend, buffers: WindowBuffers) -> None:
        self._program = backend.program
        self._session, self._step = backend.binding("step")
        values = self._program.values({"window": buffers.window, "h": buffers.h})
        self._step.bind_ortvalue_input("window", values["window"])
        self._step.bind_ortvalue_output("h", values["h"])

    def step(self) -> None:
        """See ``BoundWindow.step``."""
        try:
            self._session.run_with_iobinding(self._step)
        except self._program.errors as exc:
            raise BackendError(f"onnxruntime could not compute a step: {exc}") from exc


class OnnxAttention:
    """The bindings of one session's keys and values.

    Args:
        backend: What computes.
        buffers: What is bound.
    """

    def __init__(self, backend: OnnxAttentionBackend, buffers: StateBuffers) -> None:
        self._backend = backend
        self._program = backend.program
        self._histories = backend.histories
        self._buffers = buffers
        self._blocks = range(len(buffers.cache))
        self._session, self._step = backend.binding("step")
        make = self._program.values
        h = make({"h": buffers.h})["h"]
        inputs: Tensors = {"x": buffers.x}
        outputs: Tensors = {}
        for block in self._blocks:
            keys, values = buffers.cache[block]
            inputs |= {f"blocks.{block}.keys": keys[None], f"blocks.{block}.values": values[None]}
            inputs[f"blocks.{block}.bias"] = buffers.bias[block]
            outputs[f"blocks.{block}.new_keys"] = keys[None, :1]
            outputs[f"blocks.{block}.new_values"] = values[None, :1]
        for name, value in make(inputs).items():
            self._step.bind_ortvalue_input(name, value)
        for name, value in make(outputs).items():
            self._step.bind_ortvalue_output(name, value)
        self._step.bind_ortvalue_output("h", h)
        self._h = h
        self._prefill: _PrefillBinding | None = None

    def step(self) -> None:
        """See ``BoundState.step``."""
        try:
            self._session.run_with_iobinding(self._step)
        except self._program.errors as exc:
            raise BackendError(f"onnxruntime could not compute a step: {exc}") from exc

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        """See ``BoundState.prefill``."""
        bound = self._prefill
        if bound is None or (len(bound.x), bound.row) != (len(x), row):
            bound = self._prefill = self._bind_prefill(len(x), row)
        np.copyto(bound.x, x)
        try:
            bound.session.run_with_iobinding(bound.binding)
        except self._program.errors as exc:
            raise BackendError(f"onnxruntime could not compute a history: {exc}") from exc

    def _bind_prefill(self, n_events: int, row: int) -> _PrefillBinding:
        session, binding = self._backend.binding(self._histories.function_of(n_events))
        x = np.zeros((n_events, self._buffers.x.shape[1]), np.float32)
        biases = self._histories.bias_of(n_events)
        outputs: Tensors = {}
        rows = slice(row, row + n_events)
        for block in self._blocks:
            keys, values = self._buffers.cache[block]
            outputs[f"blocks.{block}.keys"] = keys[None, rows]
            outputs[f"blocks.{block}.values"] = values[None, rows]
        for name, value in self._program.values({"x": x, **biases}).items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._program.values(outputs).items():
            binding.bind_ortvalue_output(name, value)
        binding.bind_ortvalue_output("h", self._h)
        return _PrefillBinding(x=x, row=row, biases=biases, session=session, binding=binding)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PrefillBinding:
    """A binding for histories of one length, and the arrays whose memory it uses."""

    x: NDArray[np.float32]
    row: int
    biases: Tensors
    session: Any
    binding: Any
