# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch's own trace, an ETDump, read by its Inspector.

Operators inside a delegate are timed in whole microseconds there, which most of them do not
take: so a delegate is one row, which names what it computes.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec_device.backends.executorch import ExecuTorchBackend, ExecuTorchWindowBackend
from pocketrec_device.debugging.profile import FunctionProfile, Profile, summarise_operators

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.debugging.profile import ProfileOptions
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["profile_executorch"]

_NATIVE = "native_call_"
_DELEGATE = "DELEGATE_CALL"
_WHOLE_CALL = "Method::execute"
_US_PER_MS = 1e3  # the Inspector's default scale is milliseconds


def profile_executorch(
    bundle: BundleFolder, plan: Plan, x: NDArray[np.float32], options: ProfileOptions
) -> Profile:
    """Profile ExecuTorch; see ``profiling.profile_backend``.

    Args:
        bundle: With a program.
        plan: Its default plan.
        x: (T, D) float32, embeddings of a history.
        options: ``n_warmup`` and ``n_runs`` count; the program's own pool decides on threads.
    """
    is_window = bundle.manifest.backbone.kind == "caser"
    backend = (ExecuTorchWindowBackend if is_window else ExecuTorchBackend)(
        bundle, plan, is_traced=True
    )
    state = backend.new_state()
    is_split = not is_window and len(x) > 2
    for _ in range(options.n_warmup + options.n_runs):
        state.reset()
        if is_split:
            state.observe(x[:-1])
            state.step(x[-1])
        else:
            state.observe(x)
    labels = (
        ("history", "step") if is_split else ("step" if len(x) == 1 or is_window else "history",)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.etdp"
        backend.write_trace(path)
        blocks = _blocks(path)
    return Profile(
        backend=backend.name,
        version=backend.version,
        tracer="ExecuTorch's event tracer",
        threads=options.threads,
        functions=tuple(
            _function_profile(label, block.events, options)
            for label, block in zip(labels, blocks, strict=True)
        ),
    )


def _blocks(path: Path) -> list[Any]:
    """Return what the Inspector reads of a trace: one block per method that was called."""
    with warnings.catch_warnings():  # the library's own, from its import on
        warnings.simplefilter("ignore")
        inspector = import_module("executorch.devtools").Inspector(etdump_path=str(path))
    return [block for block in inspector.event_blocks if block.name == "Execute"]


def _function_profile(label: str, events: list[Any], options: ProfileOptions) -> FunctionProfile:
    rows: list[tuple[str, str, list[float]]] = []
    inside: list[str] = []
    calls: list[float] = []
    for event in events:
        times = [each * _US_PER_MS for each in event.perf_data.raw[options.n_warmup :]]
        if event.is_delegated_op:
            inside.append(re.sub(r" (\(.*\)|#\d+)", "", event.name))
        elif event.name == _DELEGATE:
            names = (f"{name} ×{n}" if n > 1 else name for name, n in Counter(inside).items())
            rows.append(("XNNPACK", ", ".join(names), times))
            inside = []
        elif event.name.startswith(_NATIVE):
            rows.append((event.name.removeprefix(_NATIVE), "", times))
        elif event.name == _WHOLE_CALL:
            calls = times
    return FunctionProfile(
        function=label,
        n_calls=options.n_runs,
        call_us=float(np.median(calls)) if calls else None,
        operators=summarise_operators(rows),
    )
