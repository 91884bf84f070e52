# SPDX-License-Identifier: Apache-2.0
"""The second backend: an ExecuTorch program with the default plan's weights baked in.

A ``.pte`` cannot be given other weights, so this backend runs the default plan only and
says so. Its Python package needs torch, an extra of its own; both are imported when a
backend is made, never before.
"""

from __future__ import annotations

import threading
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import BackendError, IncompatibleArtifactError
from pocketrec_device.attention_state import AttentionState
from pocketrec_device.backends.base import LayerReport, layer_reports, read_relative_bias
from pocketrec_device.extras import require_libraries
from pocketrec_device.window_state import WindowState
from pocketrec_quantization.attention_bias import RingBias
from pocketrec_quantization.bundle import PROGRAM, BundleFolder
from pocketrec_quantization.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from pocketrec_device.attention_state import StateBuffers
    from pocketrec_device.backends.base import Backend
    from pocketrec_device.settings import EngineSettings
    from pocketrec_device.window_state import WindowBuffers

__all__ = ["ExecuTorchBackend", "ExecuTorchWindowBackend", "build"]


def build(
    bundle: BundleFolder, plan: Plan, settings: EngineSettings, *, like: Backend | None = None
) -> ExecuTorchBackend | ExecuTorchWindowBackend:
    """See ``backends.build_backend``; nothing is shared."""
    del settings, like
    if bundle.manifest.backbone.kind == "caser":
        return ExecuTorchWindowBackend(bundle, plan)
    return ExecuTorchBackend(bundle, plan)


class _Program:
    """The program of a bundle and its default plan, whatever the kind of backbone.

    Args:
        bundle: Where the program is.
        plan: Must be the default plan. The program's own thread pool decides on threads.
        methods: Those to load.
        is_traced: Whether every call is traced, which costs memory and time.

    Raises:
        MissingExtraError: executorch or torch is not installed.
        IncompatibleArtifactError: The plan is not the bundle's default plan, or the
            bundle has no program for this executorch.
    """

    name = "executorch"
    is_exact = True
    takes_histories = True

    def __init__(
        self, bundle: BundleFolder, plan: Plan, methods: tuple[str, ...], *, is_traced: bool
    ) -> None:
        _refuse_other_plans(bundle, plan)
        self._plan = plan
        self.backbone = bundle.manifest.backbone
        self._torch, runtime = _import_executorch()
        # The methods of a program share one arena of memory: one call at a time.
        self._lock = threading.Lock()
        try:
            # Methods read the program's bytes, and only the program keeps those alive.
            self._program = runtime.Runtime.get().load_program(
                bundle.read(PROGRAM), enable_etdump=is_traced
            )
            self._methods = {name: self._program.load_method(name) for name in methods}
        except (RuntimeError, KeyError) as exc:
            raise IncompatibleArtifactError(
                f"executorch {self.version} cannot load the bundle's program: {exc}; build the "
                "bundle with this release of executorch"
            ) from exc

    @property
    def version(self) -> str:
        """Version of executorch."""
        return version("executorch")

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``: the exporter baked float32 weights in."""
        return layer_reports(self._plan, computed="float32", kernel="as exported, weights baked in")

    def run(self, method: str, *arrays: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run a method of the program.

        Raises:
            BackendError: Inference failed.
        """
        inputs = [self._tensor(array) for array in arrays]
        with self._lock:
            try:
                outputs = self._methods[method].execute(inputs)
            except RuntimeError as exc:
                raise BackendError(f"executorch could not compute {method}: {exc}") from exc
            return [output.numpy().copy() for output in outputs]

    def write_trace(self, path: Path) -> None:
        """Write what was traced so far, as an ETDump.

        Args:
            path: Of the file; intermediate values, of which there are none, go beside it.

        Raises:
            BackendError: Nothing was traced.
        """
        self._program.write_etdump_result_to_file(str(path), f"{path}.values")
        if not path.exists():
            raise BackendError(f"executorch {self.version} wrote no trace; its build has no tracer")

    def _tensor(self, array: NDArray[Any]) -> Any:
        """Wrap an array; executorch aborts at the strides that NumPy gives to no elements."""
        if not array.size:  # a cache of no rows, if L is 1
            return self._torch.zeros(array.shape)
        # torch refuses to wrap read-only arrays without a warning: copy those.
        return self._torch.from_numpy(np.require(array, requirements=["C", "W"]))


class ExecuTorchBackend(_Program):
    """One SASRec under its default plan, in ExecuTorch; arguments as the others' are."""

    def __init__(self, bundle: BundleFolder, plan: Plan, *, is_traced: bool = False) -> None:
        super().__init__(bundle, plan, ("prefill", "step"), is_traced=is_traced)
        dense = bundle.read_frozen().dense
        self.ring = RingBias(read_relative_bias(dense, self.backbone))

    def new_state(self) -> AttentionState:
        """See ``Backend.new_state``."""
        return AttentionState(self)

    def bind(self, buffers: StateBuffers) -> _ExecuTorchState:
        """See ``AttentionBackend.bind``."""
        return _ExecuTorchState(self, buffers)


class ExecuTorchWindowBackend(_Program):
    """One Caser under its default plan, in ExecuTorch; arguments as the others' are."""

    def __init__(self, bundle: BundleFolder, plan: Plan, *, is_traced: bool = False) -> None:
        super().__init__(bundle, plan, ("step",), is_traced=is_traced)

    def new_state(self) -> WindowState:
        """See ``Backend.new_state``."""
        return WindowState(self)

    def bind(self, buffers: WindowBuffers) -> _ExecuTorchWindow:
        """See ``WindowBackend.bind``."""
        return _ExecuTorchWindow(self, buffers)


class _ExecuTorchWindow:
    """Copies buffers in and out: a program's outputs lie in memory of its own."""

    def __init__(self, backend: ExecuTorchWindowBackend, buffers: WindowBuffers) -> None:
        self._backend = backend
        self._buffers = buffers

    def step(self) -> None:
        (h,) = self._backend.run("step", self._buffers.window)
        self._buffers.h[:] = h


class _ExecuTorchState:
    """Copies buffers in and out: a program's outputs lie in memory of its own."""

    def __init__(self, backend: ExecuTorchBackend, buffers: StateBuffers) -> None:
        self._backend = backend
        self._buffers = buffers

    def step(self) -> None:
        buffers = self._buffers
        keys, values = buffers.cache[:, 0, 1:], buffers.cache[:, 1, 1:]
        bias = buffers.bias[:, 0, :, 0]
        new_keys, new_values, h = self._backend.run("step", buffers.x, keys, values, bias)
        buffers.cache[:, 0, 0], buffers.cache[:, 1, 0] = new_keys, new_values
        buffers.h[:] = h

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        keys, values, h = self._backend.run("prefill", x)
        rows = slice(row, row + len(x))
        self._buffers.cache[:, 0, rows], self._buffers.cache[:, 1, rows] = keys, values
        self._buffers.h[:] = h


def _refuse_other_plans(bundle: BundleFolder, plan: Plan) -> None:
    default = bundle.read_default_plan()
    if not np.array_equal(plan.widths, default.widths):
        raise IncompatibleArtifactError(
            "the executorch program carries the default plan's weights and can run no other "
            f"plan, but got version {plan.version} for subject {plan.subject!r}; open the store "
            "with backend='onnxruntime'"
        )


def _import_executorch() -> tuple[ModuleType, ModuleType]:
    names = ("torch", "executorch")
    require_libraries(*names, purpose="the backend 'executorch'", extras="device,executorch")
    # By name, so that static checks keep torch out of everything else on the device.
    return import_module("torch"), import_module("executorch.runtime")
