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
from pocketrec_device.backends.base import LayerReport, layer_reports
from pocketrec_device.extras import require_libraries
from pocketrec_quantization.bundle import PROGRAM, BundleFolder
from pocketrec_quantization.plan import Plan

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

__all__ = ["ExecuTorchBackend"]

_METHODS = ("prefill", "step", "score")


class ExecuTorchBackend:
    """One bundle under its default plan, in ExecuTorch.

    Args:
        bundle: Where the program is.
        plan: Must be the default plan.
        threads: Ignored: the program's own thread pool decides.

    Raises:
        MissingExtraError: executorch or torch is not installed.
        IncompatibleArtifactError: The plan is not the bundle's default plan, or the
            bundle has no program for this executorch.
    """

    name = "executorch"

    def __init__(self, bundle: BundleFolder, plan: Plan, *, threads: int = 1) -> None:
        del threads
        _refuse_other_plans(bundle, plan)
        self._plan = plan
        self._torch, runtime = _import_executorch()
        # The methods of a program share one arena of memory: one call at a time.
        self._lock = threading.Lock()
        try:
            # Methods read the program's bytes, and only the program keeps those alive.
            self._program = runtime.Runtime.get().load_program(bundle.read(PROGRAM))
            self._methods = {name: self._program.load_method(name) for name in _METHODS}
        except (RuntimeError, KeyError) as exc:
            raise IncompatibleArtifactError(
                f"executorch {self.version} cannot load the bundle's program: {exc}; build the "
                "bundle with this release of executorch"
            ) from exc

    @property
    def version(self) -> str:
        """Version of executorch."""
        return version("executorch")

    def prefill(
        self, x: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """See ``Backend.prefill``."""
        keys, values, h = self._run("prefill", x)
        return keys, values, h

    def step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        distance: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """See ``Backend.step``."""
        new_key, new_value, h = self._run("step", x, keys, values, distance)
        return new_key, new_value, h

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend.score``."""
        (scores,) = self._run("score", h, candidates)
        return scores

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``: the exporter baked float32 weights in."""
        return layer_reports(
            self._plan, stored_bits=32, computed="float32", kernel="as exported, weights baked in"
        )

    def _run(self, method: str, *arrays: NDArray[Any]) -> list[NDArray[np.float32]]:
        # torch refuses to wrap read-only arrays without a warning: copy those.
        inputs = [
            self._torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays
        ]
        with self._lock:
            try:
                outputs = self._methods[method].execute(inputs)
            except RuntimeError as exc:
                raise BackendError(f"executorch could not compute {method}: {exc}") from exc
            return [output.numpy().copy() for output in outputs]


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
