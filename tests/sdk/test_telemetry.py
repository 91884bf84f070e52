# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime is told to send nothing, wherever pocketrec loads it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, os, sys
at_import = set()
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            at_import.add(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
user = importlib.import_module(sys.argv[1])
assert "onnxruntime" not in sys.modules
user.import_onnxruntime()
import onnxruntime
calls = []
onnxruntime.disable_telemetry_events = lambda: calls.append(1)
user.import_onnxruntime()
print(at_import, len(calls))
"""


@pytest.mark.parametrize(
    "user",
    [
        "pocketrec_device.backends.onnx_program",
        "pocketrec_device.lowering.capabilities",
        "pocketrec_device.lowering.probe",
        "pocketrec_device.lowering.tuning",
        "pocketrec_cloud.graph_runners",
    ],
)
def test_telemetry_is_off(user: str) -> None:
    """The library is told twice: in its environment before the import, and by a call."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ORT_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, user],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip() == "{'1'} 1"
