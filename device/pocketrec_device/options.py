# SPDX-License-Identifier: Apache-2.0
"""What an app may choose when it makes or opens a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store

if TYPE_CHECKING:
    from pocketrec_device.facts import DeviceFacts
    from pocketrec_device.latency_guard import LatencyLimits
    from pocketrec_device.refresh import RefreshPolicy

__all__ = ["RuntimeOptions", "RuntimeParts", "engine_settings", "runtime_parts"]


class RuntimeOptions(TypedDict, total=False):
    """Keyword arguments of ``Runtime.create`` and ``Runtime.open``; all may be left out.

    Attributes:
        backend: ``"onnxruntime"`` (the default), ``"executorch"`` or ``"numpy"``.
        threads: Threads per call, from 1; 1 unless given.
        compute: ``"fp32"``, ``"int8"`` or ``"packed"`` kernels for every layer, or
            ``"auto"`` (the default): the fastest, as measured on this device.
        swap: ``"adapter"``: plans change without new sessions; ``"rebuild"``: each plan
            gets its own; ``"auto"`` (the default): the first where that costs no speed.
        preset: ``"balanced"`` (the default): the plan as it is; ``"battery_saver"`` and
            ``"full"``: fewer or more bits for the same plan.
        strict: Refuse layers that are not kept and computed in the widths the plan asks
            for.
        max_kept_bytes: Bundles beyond the current and the previous one may take so many
            bytes; 0 unless given.
        latency: How slow a new bundle may be before it is refused.
        refresh: When ``sync`` is due.
        facts: What to tell servers of this device; nothing but backend and operating
            system unless given.
        report_status: Tell the server after each sync what runs and how the update went, and how
            long calls of ``rerank`` took; no items, no pseudonyms. Off unless given.
    """

    backend: str
    threads: int
    compute: str
    swap: str
    preset: str
    strict: bool
    max_kept_bytes: int
    latency: LatencyLimits
    refresh: RefreshPolicy
    facts: DeviceFacts
    report_status: bool


class RuntimeParts(TypedDict):
    """What a ``Runtime`` is made of; see there."""

    store: Store
    settings: EngineSettings
    latency: LatencyLimits | None
    refresh: RefreshPolicy | None
    facts: DeviceFacts | None
    report_status: bool


def runtime_parts(store_path: str | Path, options: RuntimeOptions) -> RuntimeParts:
    """Return the arguments of ``Runtime`` that some options come to.

    Args:
        store_path: The folder.
        options: The app's choices.

    Raises:
        ConfigError: There is no such choice.
    """
    store = Store(store_path, max_kept_bytes=options.get("max_kept_bytes", 0))
    return RuntimeParts(
        store=store,
        settings=engine_settings(options, store),
        latency=options.get("latency"),
        refresh=options.get("refresh"),
        facts=options.get("facts"),
        report_status=options.get("report_status", False),
    )


def engine_settings(options: RuntimeOptions, store: Store) -> EngineSettings:
    """Return how engines are built under some options.

    Args:
        options: The app's choices.
        store: Where measured times are kept.

    Raises:
        ConfigError: There is no such choice.
    """
    return EngineSettings(
        backend=options.get("backend", "onnxruntime"),
        threads=options.get("threads", 1),
        compute=options.get("compute", "auto"),
        swap=options.get("swap", "auto"),
        preset=options.get("preset", "balanced"),
        is_strict=options.get("strict", False),
        tuning_file=store.tuning_file,
    )
