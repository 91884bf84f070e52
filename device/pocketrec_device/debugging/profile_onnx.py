# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's own profiler on the sessions that an app would run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec_device.backends.onnx import OnnxAttentionBackend, OnnxBackend, OnnxWindowBackend
from pocketrec_device.backends.onnx_program import OnnxProgram
from pocketrec_device.debugging.profile import FunctionProfile, Profile, summarise_operators
from pocketrec_device.debugging.watched_onnx import graph_of
from pocketrec_quantization.graph_contract import stacked_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pocketrec_device.backends.onnx_program import Function
    from pocketrec_device.debugging.profile import ProfileOptions
    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import Product
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["profile_onnx"]

_KERNEL = "_kernel_time"
_FUSED = "fused "


def profile_onnx(
    bundle: BundleFolder, plan: Plan, x: NDArray[np.float32], options: ProfileOptions
) -> Profile:
    """Profile ONNX Runtime; see ``profiling.profile_backend``.

    Args:
        bundle: What is computed.
        plan: Under which plan.
        x: (T, D) float32, embeddings of a history.
        options: How to profile.
    """
    program = OnnxProgram(bundle, threads=options.threads, compute=options.compute)
    with tempfile.TemporaryDirectory() as folder:
        traces = _Traces(program, program.weights_under(plan), Path(folder))
        backend = _traced(program, plan, traces)
        state = backend.new_state()
        is_split = program.has_prefill and len(x) > 2
        for _ in range(options.n_warmup + options.n_runs):
            state.reset()
            if is_split:
                state.observe(x[:-1])
                state.step(x[-1])
            else:
                state.observe(x)
        functions = traces.functions(options)
    return Profile(
        backend=backend.name,
        version=backend.version,
        tracer="ONNX Runtime's profiler",
        threads=options.threads,
        functions=functions,
    )


class _Traces:
    """Sessions that trace, made as a backend asks for them."""

    def __init__(self, program: OnnxProgram, source: ChannelSource, folder: Path) -> None:
        self._program, self._source, self._folder = program, source, folder
        self._sessions: dict[str, tuple[Any, Function]] = {}

    def binding(self, name: str, function: Function) -> tuple[Any, Any]:
        """Return a session that traces a function, and a binding to it."""
        graph = graph_of(function, self._source)
        session = self._program.session(graph, profile_prefix=str(self._folder / name))
        self._sessions[name] = (session, function)
        binding = session.io_binding()
        for key, value in self._program.values(function.tensors).items():
            binding.bind_ortvalue_input(key, value)
        return session, binding

    def functions(self, options: ProfileOptions) -> tuple[FunctionProfile, ...]:
        """End the traces, and return what they hold."""
        found = []
        for name, (session, function) in self._sessions.items():
            events = json.loads(Path(session.end_profiling()).read_bytes())
            label = "step" if name == "step" else "history"
            found.append(_function_profile(label, events, function, options))
        return tuple(sorted(found, key=lambda each: each.function))


class _TracedAttention(OnnxAttentionBackend):
    traces: _Traces

    def binding(self, name: str) -> tuple[Any, Any]:
        """See ``OnnxBackend.binding``."""
        return self.traces.binding(name, self.function(name))


class _TracedWindow(OnnxWindowBackend):
    traces: _Traces

    def binding(self, name: str) -> tuple[Any, Any]:
        """See ``OnnxBackend.binding``."""
        return self.traces.binding(name, self.function(name))


def _traced(program: OnnxProgram, plan: Plan, traces: _Traces) -> OnnxBackend:
    source = program.weights_under(plan)
    if program.attention is None:
        window = _TracedWindow(program, plan, source)
        window.traces = traces
        return window
    attention = _TracedAttention(program, plan, source, program.attention)
    attention.traces = traces
    return attention


def _function_profile(
    label: str, events: Sequence[dict[str, Any]], function: Function, options: ProfileOptions
) -> FunctionProfile:
    products = function.lowered.products
    times: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    calls: list[float] = []
    for event in events:
        name = event["name"]
        if event["cat"] == "Node" and name.endswith(_KERNEL):
            times.setdefault(name, []).append(event["dur"])
            operators[name] = event["args"]["op_name"]
        elif name == "model_run":
            calls.append(event["dur"])
    kept = _after_warmup(calls, options)
    return FunctionProfile(
        function=label,
        n_calls=len(kept),
        call_us=float(np.median(kept)) if kept else None,
        operators=summarise_operators(
            [
                (operators[name], _node(name, products), _after_warmup(each, options))
                for name, each in times.items()
            ]
        ),
    )


def _after_warmup(times: Sequence[float], options: ProfileOptions) -> Sequence[float]:
    """Leave out the warm-up; a round of it may call a function more than once."""
    return times[len(times) * options.n_warmup // (options.n_warmup + options.n_runs) :]


def _node(event: str, products: Sequence[Product]) -> str:
    """Return what an operator is part of: layers side by side, or a value of the graph."""
    name = event.removesuffix(_KERNEL).removeprefix(_FUSED)
    for product in products:
        # A kernel calls its own values after the weights, the result keeps the graph's name.
        if name.startswith((f"{product.name}.", f"{product.name}/", f"{product.output}/")):
            first, *others = stacked_layers(product.name)
            return "+".join([first, *(layer.rpartition(".")[2] for layer in others)])
    return name.rpartition("/")[0]
