# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime with the values on the way made visible.

The graphs are those that an app's sessions run, with more outputs. Such outputs keep ONNX
Runtime from fusing across them, so times of a watched session mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec_device.backends.onnx import OnnxAttentionBackend, OnnxBackend, OnnxWindowBackend
from pocketrec_device.backends.onnx_program import OnnxProgram
from pocketrec_device.debugging.values import Call, Tell, as_rows, value_names
from pocketrec_device.lowering.graph import node
from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel, OnnxValueInfo
from pocketrec_quantization.graph_contract import stacked_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pocketrec_device.backends.onnx_program import Function
    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["graph_of", "watch_onnx"]

_STATE = frozenset({"h"})  # of a Caser, the result of its last product is the state
_COPY = "/copy"
_OPERATORS = {"fp32": "Gemm", "int8": "DynamicQuantizeMatMul", "packed": "MatMulNBits"}


def watch_onnx(
    bundle: BundleFolder, plan: Plan, compute: str, tell: Tell
) -> OnnxAttentionBackend | OnnxWindowBackend:
    """Return a backend whose states tell of every call.

    Args:
        bundle: Where the graphs are.
        plan: A plan for it.
        compute: As ``EngineSettings.compute``.
        tell: Told every call, when it is done.

    Raises:
        ArtifactError: The bundle cannot be used.
        MissingExtraError: onnxruntime is not installed.
        BackendError: A session cannot be made.
    """
    program = OnnxProgram(bundle, compute=compute, swap="rebuild")
    source = program.weights_under(plan)
    watch = _Watch(plan=plan, source=source, tell=tell)
    if program.attention is None:
        window = _WatchedWindow(program, plan, source)
        window.watch = watch
        return window
    attention = _WatchedAttention(program, plan, source, program.attention)
    attention.watch = watch
    return attention


def graph_of(function: Function, source: ChannelSource) -> bytes:
    """Return the ONNX file that a function's session was made from.

    Args:
        function: A function of a backend.
        source: The weights it was lowered for.
    """
    if function.tensors:
        return function.lowered.with_inputs()
    return function.lowered.with_constants(function.lowered.tensors(source))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Watch:
    """Whom to tell, and what it takes to call values by their names."""

    plan: Plan
    source: ChannelSource
    tell: Tell

    def session_of(self, backend: OnnxBackend, name: str) -> tuple[_WatchedSession, Any]:
        """Return a watched session, and a binding to memory for what it shows."""
        function = backend.function(name)
        graph = _VisibleGraph(function, self.plan, self.source, value_names(backend.backbone))
        session = _WatchedSession(backend.program.session(graph.file), graph, self.tell)
        binding = session.session.io_binding()
        for key, value in backend.program.values(function.tensors).items():
            binding.bind_ortvalue_input(key, value)
        for output in graph.added:
            binding.bind_output(output, "cpu")
        return session, binding


class _WatchedAttention(OnnxAttentionBackend):
    watch: _Watch

    def binding(self, name: str) -> tuple[Any, Any]:
        """See ``OnnxBackend.binding``."""
        return self.watch.session_of(self, name)


class _WatchedWindow(OnnxWindowBackend):
    watch: _Watch

    def binding(self, name: str) -> tuple[Any, Any]:
        """See ``OnnxBackend.binding``."""
        return self.watch.session_of(self, name)


class _WatchedSession:
    """Runs as a session does, and tells."""

    def __init__(self, session: Any, graph: _VisibleGraph, tell: Tell) -> None:
        self.session = session
        self._graph, self._tell = graph, tell

    def run_with_iobinding(self, binding: Any) -> None:
        """Run, and tell of the call."""
        self.session.run_with_iobinding(binding)
        # Outputs come in the order in which they were bound: those that were added came first.
        found = zip(self._graph.added, binding.get_outputs(), strict=False)
        values = self._graph.values({name: value.numpy() for name, value in found})
        self._tell(Call(values=values, operators=self._graph.operators))


class _VisibleGraph:
    """A function's graph with its values as outputs.

    Args:
        function: A function of a backend.
        plan: Whose layers the products stack.
        source: The weights it was lowered for.
        names: Of the values to show, layers apart.

    Attributes:
        file: The ONNX file.
        added: Names of the outputs that the function itself does not have.
        operators: Name of a value to the operator that computes it.
    """

    def __init__(
        self, function: Function, plan: Plan, source: ChannelSource, names: Sequence[str]
    ) -> None:
        model = OnnxModel.FromString(graph_of(function, source))
        lowered = function.lowered
        self._products = {product.output: product for product in lowered.products}
        self._n_channels = {layer.name: layer.n_channels for layer in plan.layers}
        self._layouts = lowered.layouts(source)
        made_by = {out: each.op_type for each in model.graph.node for out in each.output}
        made_by |= {
            product.output: _OPERATORS[lowered.kernels[product.name]]
            for product in lowered.products
        }
        shown = [out for out in made_by if out in {*names, *self._products}]
        self.operators = {name: made_by[out] for out in shown for name in self._names_of(out)}
        own = {each.name for each in model.graph.output}
        self.added = []
        for out in shown:
            # What the function gives anyhow is bound by the state, to memory of its own.
            added = f"{out}{_COPY}" if out in own else out
            if out in own:
                model.graph.node.append(node("Identity", [out], [added]))
            self.added.append(added)
            model.graph.output.append(OnnxValueInfo(name=added))
        self.file = model.SerializeToString()

    def values(self, outputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float64]]:
        """Return added outputs by the names of ``values``, whole and in their own order."""
        values: dict[str, NDArray[np.float64]] = {}
        for added, value in outputs.items():
            name, rows = added.removesuffix(_COPY), as_rows(value)
            if name in self._layouts:
                layout = self._layouts[name]
                whole = np.tile(layout.constants.astype(np.float64), (len(rows), 1))
                whole[:, layout.places] = rows
                rows = whole
            if name in self._products:
                layers = stacked_layers(self._products[name].name)
                ends = np.cumsum([self._n_channels[layer] for layer in layers])
                values |= dict(zip(layers, np.split(rows, ends[:-1], axis=1), strict=True))
            if name not in self._products or name in _STATE:
                values[name] = rows
        return values

    def _names_of(self, output: str) -> tuple[str, ...]:
        product = self._products.get(output)
        if product is None:
            return (output,)
        layers = stacked_layers(product.name)
        return (*layers, output) if output in _STATE else layers
