# SPDX-License-Identifier: Apache-2.0
"""Starts the processes that measure, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketrec.errors import BackendError, ConfigError

__all__ = ["Interpreter"]

_SOURCE_ROOTS = ("sdk", "proto", "quantization", "cloud", "device")
# Found without importing the package, which is one of the things to be timed.
_START = (
    "import importlib.util, runpy; "
    "found = importlib.util.find_spec('pocketrec_device').submodule_search_locations[0]; "
    "runpy.run_path(found + '/bench/worker.py', run_name='__main__')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python with pocketrec, as which measuring processes run.

    Args:
        python: Its program.
        sources: A checkout whose packages come before the installed ones; None is none.
        worker: The script to run; None is the worker of the pocketrec that it finds.

    Raises:
        ConfigError: The sources hold no pocketrec.
    """

    python: str = sys.executable
    sources: Path | None = None
    worker: Path | None = None

    def __post_init__(self) -> None:
        if self.sources is not None and not (self.sources / "device/pocketrec_device").is_dir():
            raise ConfigError(
                f"{self.sources}: expected a checkout of pocketrec, found no "
                "device/pocketrec_device in it"
            )

    def measure(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do a job in a fresh process, and return what it measured.

        Args:
            job: As ``worker.measure`` takes it.

        Raises:
            BackendError: The process failed, with its last line in the message; or it
                returned no measurement, as a Python of another kind does.
        """
        # Without its folder on sys.path: "-m" would import the package, too.
        script = ["-c", _START] if self.worker is None else [str(self.worker)]
        command = [self.python, "-P", *script, json.dumps(job)]
        done = subprocess.run(  # noqa: S603  # ours
            command, capture_output=True, text=True, check=False, env=self._environment()
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise BackendError(f"the measuring process ended with {done.returncode}: {lines[-1]}")
        # The last line: a library may have printed something before it.
        last = (done.stdout.splitlines() or [""])[-1]
        try:
            result: dict[str, Any] = json.loads(last)
            if "samples_ns" in result:
                return result
        except (ValueError, TypeError):
            pass
        raise BackendError(f"expected a measurement of {self.python}, found {last[:80]!r}")

    def _environment(self) -> dict[str, str] | None:
        if self.sources is None:
            return None
        paths = [str(self.sources.resolve() / root) for root in _SOURCE_ROOTS]
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
