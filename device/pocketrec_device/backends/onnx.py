# SPDX-License-Identifier: Apache-2.0
"""The default backend: ONNX Runtime on the CPU.

A *program* is a bundle's graphs, lowered; a *backend* is a program under one plan, of one
class per kind of backbone. Everything a step reads and writes is bound once, so a step is
one call without copies.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pocketrec_device.attention_state import AttentionState
from pocketrec_device.backends.base import LayerReport, stored_channels
from pocketrec_device.backends.onnx_program import Function, OnnxProgram
from pocketrec_device.backends.onnx_states import OnnxAttention, OnnxWindow
from pocketrec_device.lowering.channels import ChannelSource, FloatSource
from pocketrec_device.lowering.kernels import KERNELS
from pocketrec_device.memory import release_freed_memory
from pocketrec_device.window_state import WindowState
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.levels import count_widths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_device.attention_state import StateBuffers
    from pocketrec_device.backends.attention_histories import AttentionHistories
    from pocketrec_device.backends.base import Backend
    from pocketrec_device.lowering.lowered_graph import MadeTensors
    from pocketrec_device.session import SessionState
    from pocketrec_device.settings import EngineSettings
    from pocketrec_device.window_state import WindowBuffers
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["OnnxAttentionBackend", "OnnxBackend", "OnnxWindowBackend", "build"]


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


class OnnxBackend(ABC):
    """One program under one plan; ``of_plan`` makes one of the backbone's kind.

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
        self._plan = plan
        self._source = source if program.has_prefill else None
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
        backend = cls._of(program, plan, program.weights_under(plan))
        if program.is_packed:
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
        return cls._of(program, plan, FloatSource(weights))

    @staticmethod
    def _of(program: OnnxProgram, plan: Plan, source: ChannelSource) -> OnnxBackend:
        if program.attention is None:
            return OnnxWindowBackend(program, plan, source)
        return OnnxAttentionBackend(program, plan, source, program.attention)

    @property
    @abstractmethod
    def takes_histories(self) -> bool:
        """See ``Backend.takes_histories``."""

    @abstractmethod
    def new_state(self) -> SessionState:
        """See ``Backend.new_state``."""

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

    def function(self, name: str) -> Function:
        """Return a function under the plan; see ``OnnxProgram.function``.

        Raises:
            BackendError: A session cannot be made.
        """
        with self._lock:
            if name not in self._functions and self._source is not None:
                made: MadeTensors = {}  # a history of another length
                self._functions[name] = self.program.function(name, self._source, made)
            return self._functions[name]

    def binding(self, name: str) -> tuple[Any, Any]:
        """Return a function's session, and a binding that has the plan's values.

        Raises:
            BackendError: A session cannot be made.
        """
        function = self.function(name)
        binding = function.session.io_binding()
        for key, value in self.program.values(function.tensors).items():
            binding.bind_ortvalue_input(key, value)
        return function.session, binding

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``: what a step does, and prefill where it differs."""
        chosen = {name: self._kernels_by_layer(name) for name in self._functions}
        by_layer = split_by_layer(self._plan.widths, self._plan.layers)
        left = _left_by_layer(self._functions["step"])
        reports = []
        for layer in self._plan.layers:
            step = chosen["step"][layer.name]
            prefill = chosen.get("full", chosen["step"])[layer.name]
            widths = by_layer[layer.name]
            n_elements, n_kept = left[layer.name]
            also = "" if step == prefill else f"; a whole history: {_kernel_text(prefill)}"
            reports.append(
                LayerReport(
                    name=layer.name,
                    requested=count_widths(widths),
                    stored=stored_channels(widths, n_kept or len(widths), KERNELS[step].stored),
                    n_elements=n_elements,
                    computed=KERNELS[step].computed,
                    kernel=f"{_kernel_text(step)}{also}",
                )
            )
        return tuple(reports)

    def _kernels_by_layer(self, function: str) -> dict[str, str]:
        kernels = self._functions[function].lowered.kernels
        return {layer: kernel for name, kernel in kernels.items() for layer in stacked_layers(name)}


def _left_by_layer(function: Function) -> dict[str, tuple[int, int]]:
    """Return what is left of every layer: elements, and channels, 0 for all of them."""
    return {
        layer: (n_inputs, 0 if len(stacked) > 1 else n_outputs)
        for name, (n_inputs, n_outputs) in function.sides.items()
        for stacked in [stacked_layers(name)]
        for layer in stacked
    }


_KERNEL_TEXTS = {
    "fp32": "Gemm, weights dequantized when the plan is applied",
    "int8": "DynamicQuantizeMatMul, inputs rounded to 8 bits",
    "packed": "MatMulNBits per width, inputs rounded to 8 bits",
}


def _kernel_text(kernel: str) -> str:
    return _KERNEL_TEXTS[kernel]


class OnnxAttentionBackend(OnnxBackend):
    """A SASRec under one plan.

    Args:
        program: Shared by all plans of a bundle.
        plan: For reports.
        source: The plan's weights.
        histories: The program's.

    Raises:
        BackendError: A session cannot be made.
    """

    def __init__(
        self,
        program: OnnxProgram,
        plan: Plan,
        source: ChannelSource,
        histories: AttentionHistories,
    ) -> None:
        super().__init__(program, plan, source)
        self.histories = histories
        self.ring = histories.ring

    @property
    def takes_histories(self) -> bool:
        """See ``Backend.takes_histories``."""
        return self.program.has_prefill

    def new_state(self) -> AttentionState:
        """See ``Backend.new_state``."""
        return AttentionState(self)

    def bind(self, buffers: StateBuffers) -> OnnxAttention:
        """See ``AttentionBackend.bind``."""
        return OnnxAttention(self, buffers)


class OnnxWindowBackend(OnnxBackend):
    """A Caser under one plan; arguments as those of ``OnnxBackend``."""

    takes_histories = True

    def new_state(self) -> WindowState:
        """See ``Backend.new_state``."""
        return WindowState(self)

    def bind(self, buffers: WindowBuffers) -> OnnxWindow:
        """See ``WindowBackend.bind``."""
        return OnnxWindow(self, buffers)
