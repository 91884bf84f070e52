# SPDX-License-Identifier: Apache-2.0
"""The default backend: ONNX Runtime on the CPU.

A *program* is a bundle's graphs, lowered; a *backend* is a program under one plan. Where
the plan's values are inputs of the graphs, another plan is only other values: sessions
are shared and nothing is rebuilt. Everything a step reads and writes is bound once, so a
step is one call without copies.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import (
    ArtifactError,
    BackendError,
    IncompatibleArtifactError,
    MalformedArtifactError,
)
from pocketrec.telemetry import import_onnxruntime
from pocketrec_device.backends.base import LayerReport, read_relative_bias
from pocketrec_device.lowering.channels import ChannelSource, FloatSource, FrozenStore
from pocketrec_device.lowering.kernels import KERNELS
from pocketrec_device.lowering.lowered_graph import Template
from pocketrec_device.lowering.rewrites import chunk_bounds
from pocketrec_device.lowering.tuning import Tuning, choose_kernels, time_session
from pocketrec_quantization.attention_bias import RingBias, prefill_bias
from pocketrec_quantization.bundle import PREFILL, STEP, BundleFolder
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.levels import count_widths

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from pocketrec_device.backends.base import Backend
    from pocketrec_device.lowering.kernels import Product, Tensors
    from pocketrec_device.lowering.lowered_graph import LoweredGraph
    from pocketrec_device.session import StateBuffers
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.layers import LayerTable
    from pocketrec_quantization.plan import Plan

__all__ = ["LOAD_ERRORS", "OnnxBackend", "OnnxProgram", "build", "foreign_errors", "load_error"]

# What an error of onnxruntime means while a graph is loaded; while it runs, every one of
# them is a BackendError.
LOAD_ERRORS: Mapping[str, type[ArtifactError | BackendError]] = {
    "DeviceReset": BackendError,
    "EPFail": BackendError,
    "EngineError": BackendError,
    "Fail": IncompatibleArtifactError,
    "InvalidArgument": IncompatibleArtifactError,
    "InvalidGraph": IncompatibleArtifactError,
    "InvalidProtobuf": MalformedArtifactError,
    "ModelLoadCanceled": BackendError,
    "ModelLoaded": BackendError,
    "ModelRequiresCompilation": IncompatibleArtifactError,
    "NoModel": IncompatibleArtifactError,
    "NoSuchFile": IncompatibleArtifactError,
    "NotFound": IncompatibleArtifactError,
    "NotImplemented": IncompatibleArtifactError,
    "RuntimeException": BackendError,
}


def build(
    bundle: BundleFolder, plan: Plan, settings: EngineSettings, *, like: Backend | None = None
) -> OnnxBackend:
    """See ``backends.build_backend``; the program is shared."""
    if isinstance(like, OnnxBackend):
        return like.program.under(plan)
    program = OnnxProgram(
        bundle,
        threads=settings.threads,
        compute=settings.compute,
        swap=settings.swap,
        tuning_file=settings.tuning_file,
    )
    return program.under(plan)


_CHEAP_SWAP = 1.05


class OnnxProgram:
    """A bundle's graphs in ONNX Runtime, for any of its plans.

    Args:
        bundle: Where the graphs and the frozen weights are.
        threads: Threads per call, from 1.
        compute: ``"auto"``, or the name of a kernel for every product.
        swap: ``"adapter"``: plans are inputs of one session; ``"rebuild"``: every plan
            gets sessions of its own; ``"auto"``: the first where it was measured to cost
            little, and all kernels are float32.
        tuning_file: Where measured times are kept between runs; None keeps none.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        IncompatibleArtifactError: A graph needs what this onnxruntime or this bundle
            lacks.
        MalformedArtifactError: A graph is no ONNX file, or the weights are not those of
            the manifest's backbone.
    """

    def __init__(
        self,
        bundle: BundleFolder,
        *,
        threads: int = 1,
        compute: str = "auto",
        swap: str = "auto",
        tuning_file: Path | None = None,
    ) -> None:
        self._ort = import_onnxruntime()
        self.errors = foreign_errors(self._ort)
        self.backbone = bundle.manifest.backbone
        frozen = bundle.read_frozen()
        if frozen.layers != bundle.manifest.layers:
            raise MalformedArtifactError(
                "expected the layers of the manifest, found others", field="frozen"
            )
        self._relative_bias = read_relative_bias(frozen.dense, self.backbone)
        self.ring = RingBias(self._relative_bias)
        self._threads = threads
        self._compute = compute
        self._swap = swap
        self._tuning = Tuning.for_this_device(threads, tuning_file)
        self._bounds = chunk_bounds(self.backbone.window)
        self._templates = {
            "step": Template(bundle.read(STEP), STEP),
            "full": Template(bundle.read(PREFILL), PREFILL, self._bounds),
        }
        if len(self._bounds) > 2:
            self._templates["partial"] = Template(bundle.read(PREFILL), PREFILL)
        products = [p for template in self._templates.values() for p in template.products]
        _check_products(products, frozen.layers)
        self._store = FrozenStore(frozen, [product.name for product in products])
        self._shared: dict[str, tuple[LoweredGraph, Any]] = {}
        self._full_bias: Tensors | None = None

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return str(self._ort.__version__)

    def under(self, plan: Plan) -> OnnxBackend:
        """Return the program under a plan of its model.

        Raises:
            QuantizationError: The plan asks for a width that is not stored.
            BackendError: A session cannot be made.
        """
        return OnnxBackend(self, plan, self._store.under(plan))

    def function_of(self, n_events: int) -> str:
        """Return the name of the function that takes in a history of so many events."""
        is_full = n_events == self.backbone.window or "partial" not in self._templates
        return "full" if is_full else "partial"

    def function(
        self, name: str, source: ChannelSource, made: dict[tuple[str, str], Tensors]
    ) -> _Function:
        """Return a function under a plan.

        Args:
            name: ``"step"``, or what ``function_of`` returns.
            source: The plan's weights.
            made: Values that other functions take under the same plan; added to.

        Raises:
            BackendError: A session cannot be made.
        """
        lowered, session = self._shared.get(name, (None, None))
        if lowered is None or not lowered.fits(source):
            lowered, session = self._lower(name, source), None
        tensors = lowered.tensors(source, made)
        if not self._is_swappable(name, lowered, tensors):
            return _Function(lowered, self._session(lowered.with_constants(tensors)), {})
        if session is None:
            session = self._session(lowered.with_inputs())
            self._shared[name] = (lowered, session)
        return _Function(lowered, session, tensors)

    def bias_of(self, n_events: int) -> Tensors:
        """Return what a history takes as bias, by name of the graph's input."""
        if n_events == self.backbone.window and self._full_bias is not None:
            return self._full_bias
        is_cut = self.function_of(n_events) == "full" and len(self._bounds) > 2
        bounds = self._bounds if is_cut else (0, n_events)
        biases: Tensors = {}
        for block, relative in enumerate(self._relative_bias):
            name = f"blocks.{block}.bias"
            bias = prefill_bias(relative, n_events)[None]
            if block == self.backbone.n_blocks - 1:
                biases[name] = np.ascontiguousarray(bias[:, :, -1:])
                continue
            for number, (start, end) in enumerate(pairwise(bounds)):
                part = np.ascontiguousarray(bias[:, :, start:end, :end])
                biases[f"{name}.{number}" if is_cut else name] = part
        if n_events == self.backbone.window:
            self._full_bias = biases  # the usual history of a cold start
        return biases

    def values(self, tensors: Tensors) -> dict[str, Any]:
        """Return arrays as values that sessions can be bound to; their memory is shared."""
        make = self._ort.OrtValue.ortvalue_from_numpy
        return {name: make(array) for name, array in tensors.items()}

    def _lower(self, name: str, source: ChannelSource) -> LoweredGraph:
        template = self._templates[name]
        if self._compute == "auto":
            n_rows = 1 if name == "step" else self.backbone.window
            kernels = choose_kernels(
                template.products,
                source,
                n_rows=n_rows,
                tuning=self._tuning,
                only_inputs=self._swap == "adapter",
            )
        else:
            kernels = {product.name: self._compute for product in template.products}
        return template.lower(kernels, source)

    def _is_swappable(self, name: str, lowered: LoweredGraph, tensors: Tensors) -> bool:
        if self._swap != "auto":
            return self._swap == "adapter"
        if not all(KERNELS[kernel].is_exact for kernel in lowered.kernels.values()):
            return False  # these are fast as constants only
        backbone = self.backbone
        sizes = f"D {backbone.embedding_dim}, L {backbone.window}, blocks {backbone.n_blocks}"
        times_us = self._tuning.measured(
            f"{name}, {sizes}",
            {
                "inputs": lambda: time_session(
                    self._session(lowered.with_inputs()), backbone.window, tensors
                ),
                "constants": lambda: time_session(
                    self._session(lowered.with_constants(tensors)), backbone.window, {}
                ),
            },
        )
        return times_us["inputs"] <= _CHEAP_SWAP * times_us["constants"]

    def _session(self, graph: bytes) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors arrive as exceptions
        # A step needs a few kilobytes: reusing and pooling them costs more than it saves.
        options.enable_mem_reuse = False
        options.enable_cpu_mem_arena = False
        try:
            return self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except self.errors as exc:
            raise load_error(exc) from exc


def _check_products(products: Sequence[Product], layers: LayerTable) -> None:
    sides = {layer.name: (layer.n_elements, layer.n_channels) for layer in layers}
    for product in products:
        stacked = stacked_layers(product.name)
        absent = [layer for layer in stacked if layer not in sides]
        if absent:
            raise IncompatibleArtifactError(
                f"a graph expects the matrix {absent[0]!r}, which the frozen part does not hold; "
                "build the bundle again"
            )
        n_inputs = {sides[layer][0] for layer in stacked}
        n_outputs = sum(sides[layer][1] for layer in stacked)
        if (n_inputs, n_outputs) != ({product.n_inputs}, product.n_outputs):
            raise IncompatibleArtifactError(
                f"{product.name}: expected {product.n_inputs} x {product.n_outputs} weights, the "
                f"frozen part holds {sorted(n_inputs)} x {n_outputs}; build the bundle again"
            )


class _Function:
    """One function, ready to be bound.

    Args:
        lowered: What the session computes.
        session: May be shared with other plans.
        tensors: The plan's values; empty where they are inside the session.
    """

    def __init__(self, lowered: LoweredGraph, session: Any, tensors: Tensors) -> None:
        self.lowered = lowered
        self.session = session
        self.tensors = tensors


class OnnxBackend:
    """One program under one plan; ``OnnxProgram.under`` makes it.

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
        self._plan = plan
        self._source = source
        self._lock = threading.Lock()
        self._functions: dict[str, _Function] = {}
        made: dict[tuple[str, str], Tensors] = {}
        for name in ("step", program.function_of(self.backbone.window)):
            self._functions[name] = program.function(name, source, made)

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
            if name not in self._functions:  # histories of other lengths come up later
                made: dict[tuple[str, str], Tensors] = {}
                self._functions[name] = self.program.function(name, self._source, made)
            function = self._functions[name]
        binding = function.session.io_binding()
        for key, value in self.program.values(function.tensors).items():
            binding.bind_ortvalue_input(key, value)
        return function.session, binding

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``: what a step does, and prefill where it differs."""
        chosen = {name: self._kernels_by_layer(name) for name in ("step", "full")}
        by_layer = split_by_layer(self._plan.widths, self._plan.layers)
        reports = []
        for layer in self._plan.layers:
            step, prefill = chosen["step"][layer.name], chosen["full"][layer.name]
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
            inputs[f"blocks.{block}.keys"], inputs[f"blocks.{block}.values"] = (
                keys[None],
                values[None],
            )
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


def foreign_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return every class of exception that onnxruntime raises."""
    state = ort.capi.onnxruntime_pybind11_state
    own = [getattr(state, name) for name in LOAD_ERRORS if hasattr(state, name)]
    return (*own, ValueError, RuntimeError)


def load_error(exc: Exception) -> ArtifactError | BackendError:
    """Return what an exception of onnxruntime means while a graph is loaded."""
    message = f"onnxruntime could not load a graph: {exc}"
    ours = LOAD_ERRORS.get(type(exc).__name__, BackendError)
    if ours is MalformedArtifactError:
        return MalformedArtifactError(message, field="graph")
    return ours(message)
