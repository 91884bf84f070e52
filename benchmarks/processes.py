# SPDX-License-Identifier: Apache-2.0
"""Does jobs in fresh processes: what one leaves behind, no other measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.environment import ROOT

__all__ = ["cpu_seconds", "start_worker"]

TIMEOUT_S = 900
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def start_worker(module: str, job: dict[str, Any], *, timeout_s: float = TIMEOUT_S) -> str:
    """Do a job in a fresh process, on one thread.

    Args:
        module: What to run; it reads the job from its only argument.
        job: The answer is in the file that its ``answer`` names, if there is one.
        timeout_s: How long it may take.

    Returns:
        The last words on its stderr, and how it ended.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        **dict.fromkeys(_ONE_THREAD, "1"),
        "OMP_WAIT_POLICY": "passive",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-P", "-m", module, json.dumps(job)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout_s:g} s"
    words = done.stderr.strip().splitlines() or ["no message"]
    return f"ended with {done.returncode}: {words[-1]}"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process took so far, on Linux.

    Args:
        pid: Of the process; all its threads count.

    Raises:
        OSError: There is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = (int(field) for field in fields[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")
