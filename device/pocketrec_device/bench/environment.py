# SPDX-License-Identifier: Apache-2.0
"""Where a benchmark ran: what of the machine and its libraries decides about times."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pocketrec import __version__

__all__ = ["read_environment"]

_LIBRARIES = ("numpy", "onnxruntime", "executorch", "torch", "MNN")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPU_NAMES = ("model name", "Hardware", "Processor")


def read_environment() -> dict[str, Any]:
    """Return ``hardware``, ``versions`` and ``load``; see docs/benchmarking.md."""
    return {
        "hardware": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "memory_bytes": _memory_bytes(),
            "governor": _text(_GOVERNOR) or None,
        },
        "versions": {
            "pocketrec": __version__,
            "python": platform.python_version(),
            **{name: found for name in _LIBRARIES if (found := _version(name))},
        },
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpu_name() -> str:
    facts: dict[str, str] = {}
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return next((facts[name] for name in _CPU_NAMES if name in facts), platform.processor())


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
