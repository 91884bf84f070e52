# SPDX-License-Identifier: Apache-2.0
"""Profiles a backend with the tracer of its library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_device.debugging.profile_executorch import profile_executorch
from pocketrec_device.debugging.profile_onnx import profile_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_device.debugging.profile import Profile, ProfileOptions
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["PROFILED_BACKENDS", "profile_backend"]

_PROFILERS: Mapping[
    str, Callable[[BundleFolder, Plan, NDArray[np.float32], ProfileOptions], Profile]
] = {"executorch": profile_executorch, "onnxruntime": profile_onnx}

PROFILED_BACKENDS = tuple(_PROFILERS)
"""Backends whose libraries have a tracer."""


def profile_backend(
    name: str, bundle: BundleFolder, plan: Plan, history: NDArray[np.int32], options: ProfileOptions
) -> Profile:
    """Profile what taking in a history and one more event costs, operator by operator.

    Args:
        name: One of ``PROFILED_BACKENDS``.
        bundle: What is computed.
        plan: Under which plan.
        history: (T,) int32, item indices, oldest first; the last L count, the last one as
            the event.
        options: How to profile.

    Raises:
        ConfigError: There is no such backend, or its library has no tracer.
        ArtifactError: The bundle or the plan cannot run on it.
        MissingExtraError: Its library is not installed.
        BackendError: It cannot be made, or fails.
    """
    if name not in _PROFILERS:
        raise ConfigError(f"expected one of {PROFILED_BACKENDS}, which have tracers, got {name!r}")
    embedded = bundle.read_items().embed(history[-bundle.manifest.backbone.window :])
    return _PROFILERS[name](bundle, plan, embedded, options)
