# SPDX-License-Identifier: Apache-2.0
"""Where a benchmark ran: versions, machine, and digests of what built models depend on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pocketrec import __version__

__all__ = ["LIBRARIES", "ROOT", "digest_of", "read_environment", "version_of"]

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch", "executorch", "torchao", "MNN")


def digest_of(files: Sequence[Path], libraries: Sequence[str]) -> str:
    """Return 12 hex digits that change when a file or the version of a library does.

    Args:
        files: What to read.
        libraries: Names of distributions.
    """
    digest = hashlib.sha256(json.dumps([version_of(name) for name in libraries]).encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def version_of(name: str) -> str:
    """Return a distribution's version, empty when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def read_environment() -> dict[str, Any]:
    """Return versions and the machine, by name."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "pocketrec": __version__,
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in LIBRARIES},
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load": os.getloadavg()[0],
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()
