# SPDX-License-Identifier: Apache-2.0
"""The default backend: ONNX Runtime on the CPU.

A *program* is a bundle's graphs, lowered; a *backend* is a program under one plan.
Everything a step reads and writes is bound once, so a step is one call without copies.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import BackendError
from pocketrec_device.backends.base import LayerReport
from pocketrec_device.backends.onnx_program import Function, OnnxProgram
from pocketrec_device.lowering.channels import ChannelSource, FloatSource
from pocketrec_device.lowering.kernels import KERNELS
from pocketrec_device.memory import release_freed_memory
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.levels import count_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.backends.base import Backend
    from pocketrec_device.lowering.kernels import Tensors
    from pocketrec_device.lowering.lowered_graph import MadeTensors
    from pocketrec_device.session import StateBuffers
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["OnnxBackend", "build"]


def build(
    bundle: BundleFolder, plan: Plan, settings: EngineSettings, *, like: Backend | None = None
) -> OnnxBackend:
    """See ``backends.build_backend``; the program is shared."""
    if isinstance(like, OnnxBackend):
        return OnnxBackend.of_plan(like.program, plan)
    program = OnnxProgram(
        bundle,
        threads=settings.threads,
        compute=settings.compute,
        swap=settings.swap,
        tuning_file=settings.tuning_file,
    )
    return OnnxBackend.of_plan(program, plan)


class OnnxBackend:
    """One program under one plan; ``of_plan`` makes it.

    Args:
        program: Shared by all plans of a bundle.
        plan: For reports.
        source: The plan's weights.

    Raises:
        BackendError: A session cannot be made.
    """

    name = "onnxruntime"

    def __init__(self, program: OnnxProgram, plan: Plan, source: ChannelSource) -> None:
        self.program = program
        self.backbone = program.backbone
        self.ring = program.ring
        self.takes_histories = program.takes_histories
        self._plan = plan
        self._source = source if program.takes_histories else None
        self._lock = threading.Lock()
        self._functions: dict[str, Function] = {}
        made: MadeTensors = {}
        for name in program.functions:
            self._functions[name] = program.function(name, source, made)

    @classmethod
    def of_plan(cls, program: OnnxProgram, plan: Plan) -> OnnxBackend:
        """Return a program under a plan of its model.

        Raises:
            BackendError: A session cannot be made.
        """
        backend = cls(program, plan, program.weights_under(plan))
        if not program.takes_histories:
            release_freed_memory()
        return backend

    @classmethod
    def of_floats(
        cls, program: OnnxProgram, plan: Plan, weights: Mapping[str, NDArray[np.float32]]
    ) -> OnnxBackend:
        """Return the float control: the same graphs with weights that no plan made.

        Args:
            program: With ``compute="fp32"``.
            plan: For reports only.
            weights: ``"<layer>.weight"`` to (C, N) float32.
        """
        return cls(program, plan, FloatSource(weights))

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return self.program.version

    @property
    def is_exact(self) -> bool:
        """See ``Backend.is_exact``."""
        return all(
            KERNELS[kernel].is_exact
            for function in self._functions.values()
            for kernel in function.lowered.kernels.values()
        )

    def bind(self, buffers: StateBuffers) -> _OnnxState:
        """See ``Backend.bind``."""
        return _OnnxState(self, buffers)

    def binding(self, name: str) -> tuple[Any, Any]:
        """Return a function's session, and a binding that has the plan's values.

        Raises:
            BackendError: A session cannot be made.
        """
        with self._lock:
            if name not in self._functions and self._source is not None:
                made: MadeTensors = {}  # a history of another length
                self._functions[name] = self.program.function(name, self._source, made)
            function = self._functions[name]
        binding = function.session.io_binding()
        for key, value in self.program.values(function.tensors).items():
            binding.bind_ortvalue_input(key, value)
        return function.session, binding

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``: what a step does, and prefill where it differs."""
        chosen = {name: self._kernels_by_layer(name) for name in self._functions}
        by_layer = split_by_layer(self._plan.widths, self._plan.layers)
        reports = []
        for layer in self._plan.layers:
            step = chosen["step"][layer.name]
            prefill = chosen.get("full", chosen["step"])[layer.name]
            widths = by_layer[layer.name]
            also = "" if step == prefill else f"; a whole history: {_kernel_text(prefill)}"
            reports.append(
                LayerReport(
                    name=layer.name,
                    requested=count_widths(widths),
                    stored=KERNELS[step].stored(widths),
                    computed=KERNELS[step].computed,
                    kernel=f"{_kernel_text(step)}{also}",
                )
            )
        return tuple(reports)

    def _kernels_by_layer(self, function: str) -> dict[str, str]:
        kernels = self._functions[function].lowered.kernels
        return {layer: kernel for name, kernel in kernels.items() for layer in stacked_layers(name)}


_KERNEL_TEXTS = {
    "fp32": "Gemm, weights dequantized when the plan is applied",
    "int8": "DynamicQuantizeMatMul, inputs rounded to 8 bits",
    "packed": "MatMulNBits per width, inputs rounded to 8 bits",
}


def _kernel_text(kernel: str) -> str:
    return _KERNEL_TEXTS[kernel]


class _OnnxState:
    """The bindings of one session's buffers."""

    def __init__(self, backend: OnnxBackend, buffers: StateBuffers) -> None:
        self._backend = backend
        self._program = backend.program
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
        try:
            self._session.run_with_iobinding(self._step)
        except self._program.errors as exc:
            raise BackendError(f"onnxruntime could not compute a step: {exc}") from exc

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        bound = self._prefill
        if bound is None or (len(bound.x), bound.row) != (len(x), row):
            bound = self._prefill = self._bind_prefill(len(x), row)
        np.copyto(bound.x, x)
        try:
            bound.session.run_with_iobinding(bound.binding)
        except self._program.errors as exc:
            raise BackendError(f"onnxruntime could not compute a history: {exc}") from exc

    def _bind_prefill(self, n_events: int, row: int) -> _PrefillBinding:
        session, binding = self._backend.binding(self._program.function_of(n_events))
        x = np.zeros((n_events, self._buffers.x.shape[1]), np.float32)
        biases = self._program.bias_of(n_events)
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
