# SPDX-License-Identifier: Apache-2.0
"""A bundle's graphs in ONNX Runtime, lowered, for any plan of its model.

Where the plan's values are inputs of the graphs, another plan is only other values:
sessions are shared and nothing is rebuilt. Where they are constants, a plan has sessions
of its own, and ONNX Runtime may lay the values out as it likes best.

``compute="packed"`` is for small memory. Every function would hold the packed weights once
more, and so would the 8-bit codes from which plans are made; so there is a step only, with
which attention takes histories in event by event, and the codes are read from the bundle for
each plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError
from pocketrec.telemetry import import_onnxruntime
from pocketrec_device.backends.attention_histories import AttentionHistories
from pocketrec_device.backends.base import read_relative_bias
from pocketrec_device.backends.onnx_errors import foreign_errors, load_error
from pocketrec_device.lowering.channels import ChannelSource, FrozenStore
from pocketrec_device.lowering.kernels import KERNELS
from pocketrec_device.lowering.lowered_graph import Template
from pocketrec_device.lowering.tuning import Tuning, choose_kernels, time_session
from pocketrec_quantization.bundle import PREFILL, STEP, BundleFolder
from pocketrec_quantization.graph_contract import stacked_layers

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_device.lowering.kernels import Product, Tensors
    from pocketrec_device.lowering.lowered_graph import LoweredGraph, MadeTensors
    from pocketrec_quantization.frozen import FrozenModel
    from pocketrec_quantization.layers import LayerTable
    from pocketrec_quantization.plan import Plan

__all__ = ["Function", "OnnxProgram"]

_CHEAP_SWAP = 1.05  # what plans as inputs may cost before every plan gets its own sessions


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
        self._threads = threads
        self._compute = compute
        self._swap = swap
        self._tuning = Tuning.for_this_device(threads, tuning_file)
        is_small = compute == "packed"
        self._templates = {"step": Template(bundle.read(STEP), STEP)}
        self.attention: AttentionHistories | None = None
        if self.backbone.kind == "sasrec":
            self.attention = AttentionHistories(read_relative_bias(frozen.dense, self.backbone))
            if not is_small:
                self._templates |= self.attention.templates(bundle.read(PREFILL))
        products = [p for template in self._templates.values() for p in template.products]
        _check_products(products, frozen.layers)
        self._product_names = [product.name for product in products]
        self._bundle = bundle
        self._kept_store = None if is_small else self._read_store(frozen)
        self._shared: dict[str, tuple[LoweredGraph, Any]] = {}

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return str(self._ort.__version__)

    @property
    def is_packed(self) -> bool:
        """Whether every product is packed, for small memory."""
        return self._compute == "packed"

    def weights_under(self, plan: Plan) -> ChannelSource:
        """Return the weights under a plan of this model.

        Raises:
            ArtifactError: They are read again, and were damaged or deleted since.
        """
        store = self._kept_store or self._read_store(self._bundle.read_frozen())
        return store.under(plan.widths)

    @property
    def has_prefill(self) -> bool:
        """Whether there are functions that take in a whole history."""
        return "full" in self._templates

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that every backend starts with."""
        return ("step", "full") if self.has_prefill else ("step",)

    def function(self, name: str, source: ChannelSource, made: MadeTensors) -> Function:
        """Return a function under a plan.

        Args:
            name: ``"step"``, or what ``AttentionHistories.function_of`` returns.
            source: The plan's weights.
            made: Values that other functions take under the same plan; added to.

        Raises:
            BackendError: A session cannot be made.
        """
        lowered, session = self._shared.get(name, (None, None))
        folded = self._templates[name].folded(source)
        if lowered is None or not lowered.fits(folded):
            lowered, session = self._lower(name, source), None
        tensors, sides = lowered.tensors(folded, made), lowered.kept_sides(folded)
        if not self._is_swappable(name, lowered, tensors):
            return Function(lowered, self.session(lowered.with_constants(tensors)), {}, sides)
        if session is None:
            session = self.session(lowered.with_inputs())
            self._shared[name] = (lowered, session)
        return Function(lowered, session, tensors, sides)

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
        if self.attention is None:
            own = ("kind", "max_height", "n_horizontal", "n_vertical")
            sizes += "".join(f", {each} {getattr(backbone, each)}" for each in own)
        times_us = self._tuning.measured(
            f"{name}, {sizes}",
            {
                "inputs": lambda: time_session(
                    self.session(lowered.with_inputs()), backbone.window, tensors
                ),
                "constants": lambda: time_session(
                    self.session(lowered.with_constants(tensors)), backbone.window, {}
                ),
            },
        )
        return times_us["inputs"] <= _CHEAP_SWAP * times_us["constants"]

    def session(self, graph: bytes, *, profile_prefix: str | None = None) -> Any:
        """Return a session over a graph, under the options of all sessions.

        Args:
            graph: An ONNX file.
            profile_prefix: Start of the path that the library's own profile is written to,
                once ``end_profiling`` is called; None keeps none.

        Raises:
            load_error: The library refuses the graph; a ``BackendError`` or an
                ``IncompatibleArtifactError``.
        """
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors arrive as exceptions
        # A step needs a few kilobytes: reusing and pooling them costs more than it saves.
        options.enable_mem_reuse = False
        options.enable_cpu_mem_arena = False
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        try:
            session = self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except self.errors as exc:
            raise load_error(exc) from exc
        # The library keeps the file for a fallback that does not exist here: as much memory
        # again as the weights inside.
        session._model_bytes = None  # noqa: SLF001
        return session

    def _read_store(self, frozen: FrozenModel) -> FrozenStore:
        return FrozenStore(frozen, self._product_names)


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


class Function:
    """One function, ready to be bound.

    Args:
        lowered: What the session computes.
        session: May be shared with other plans.
        tensors: The plan's values; empty where they are inside the session.
        sides: Name of a product to what the plan leaves of it: inputs and channels.
    """

    def __init__(
        self,
        lowered: LoweredGraph,
        session: Any,
        tensors: Tensors,
        sides: Mapping[str, tuple[int, int]],
    ) -> None:
        self.lowered = lowered
        self.session = session
        self.tensors = tensors
        self.sides = sides
