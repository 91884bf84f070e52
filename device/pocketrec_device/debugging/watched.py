# SPDX-License-Identifier: Apache-2.0
"""Backends that tell what they compute on the way, as far as their libraries show it.

NumPy shows every value, ONNX Runtime every value that its graph has, ExecuTorch only what its
methods return: per block the keys and values, and the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import ConfigError
from pocketrec_device.backends import BACKENDS
from pocketrec_device.backends.executorch import ExecuTorchBackend, ExecuTorchWindowBackend
from pocketrec_device.backends.numpy import NumpyBackend, NumpyWindowBackend
from pocketrec_device.debugging.values import Call, Tell, as_rows
from pocketrec_device.debugging.watched_onnx import watch_onnx
from pocketrec_device.settings import COMPUTE_CHOICES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.backends import Backend
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["watch"]


def watch(name: str, bundle: BundleFolder, plan: Plan, tell: Tell) -> Backend:
    """Return a backend whose states tell of every call.

    Args:
        name: A backend, for ONNX Runtime with its ``compute`` after a colon if need be:
            ``"numpy"``, ``"onnxruntime"``, ``"onnxruntime:packed"``.
        bundle: What it computes.
        plan: Under which plan.
        tell: Told every call, when it is done.

    Raises:
        ConfigError: There is no such backend.
        ArtifactError: The bundle or the plan cannot run on it.
        MissingExtraError: Its library is not installed.
        BackendError: It cannot be made.
    """
    backend, _, compute = name.partition(":")
    if backend == "onnxruntime" and (compute or "fp32") in COMPUTE_CHOICES:
        return watch_onnx(bundle, plan, compute or "fp32", tell)
    if compute or backend not in _WATCHERS:
        raise ConfigError(
            f"expected one of {sorted(BACKENDS)}, or onnxruntime:COMPUTE with one of "
            f"{COMPUTE_CHOICES}, got {name!r}"
        )
    return _WATCHERS[backend](bundle, plan, tell)


def _watch_numpy(bundle: BundleFolder, plan: Plan, tell: Tell) -> Backend:
    seen: dict[str, NDArray[np.float64]] = {}

    def observe(name: str, value: NDArray[np.float64]) -> None:
        seen[name] = as_rows(value)
        if name == "h":  # the last value of every call
            tell(Call(values=dict(seen), operators=dict.fromkeys(seen, "NumPy")))
            seen.clear()

    if bundle.manifest.backbone.kind == "caser":
        return NumpyWindowBackend(bundle, plan, observe)
    return NumpyBackend(bundle, plan, observe)


def _watch_executorch(bundle: BundleFolder, plan: Plan, tell: Tell) -> Backend:
    kind = _WatchedWindowProgram if bundle.manifest.backbone.kind == "caser" else _WatchedProgram
    backend = kind(bundle, plan)
    backend.tell = tell
    return backend


class _WatchedProgram(ExecuTorchBackend):
    tell: Tell

    def run(self, method: str, *arrays: NDArray[Any]) -> list[NDArray[np.float32]]:
        """See ``ExecuTorchBackend.run``; keys and values of a block are outputs of its layers."""
        outputs = super().run(method, *arrays)
        keys, values, h = outputs
        found = {
            f"blocks.{block}.{name}": as_rows(rows[block])
            for name, rows in (("k", keys), ("v", values))
            for block in range(self.backbone.n_blocks)
        }
        _tell_of_method(self.tell, method, {**found, "h": as_rows(h)})
        return outputs


class _WatchedWindowProgram(ExecuTorchWindowBackend):
    tell: Tell

    def run(self, method: str, *arrays: NDArray[Any]) -> list[NDArray[np.float32]]:
        """See ``ExecuTorchWindowBackend.run``."""
        outputs = super().run(method, *arrays)
        _tell_of_method(self.tell, method, {"h": as_rows(outputs[0])})
        return outputs


def _tell_of_method(tell: Tell, method: str, values: dict[str, NDArray[np.float64]]) -> None:
    tell(Call(values=values, operators=dict.fromkeys(values, f"method {method}")))


_WATCHERS: Mapping[str, Callable[[BundleFolder, Plan, Tell], Backend]] = {
    "executorch": _watch_executorch,
    "numpy": _watch_numpy,
}
