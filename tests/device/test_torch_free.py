# SPDX-License-Identifier: Apache-2.0
"""A device needs no torch: neither by accident of an import, nor by what it installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pocketrec_device import Runtime

if TYPE_CHECKING:
    from pocketrec_quantization.bundle import BundleFolder

CHECKOUT = Path(__file__).parents[2]

RERANK = """
import sys
from importlib.util import find_spec

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "executorch", "pocketrec_cloud", "onnx"}:
            raise ImportError(f"a device has no {name}")

if "--refuse" in sys.argv:
    sys.meta_path.insert(0, Refuse())
else:
    assert find_spec("torch") is None, "torch is installed"

import pocketrec_device.sync, pocketrec_device.cli
from pocketrec_device import Runtime

with Runtime.open(sys.argv[1]) as runtime:
    runtime.observe_many(["a", "b"])
    print(",".join(runtime.rerank(["c", "d", "e"], 3).items))
assert "torch" not in sys.modules
"""


@pytest.fixture
def store(tmp_path: Path, bundle: BundleFolder) -> Path:
    """A store with version 1."""
    with Runtime.create(tmp_path / "device", model="demo") as runtime:
        runtime.bootstrap(bundle.path)
    return tmp_path / "device"


def expected(store: Path) -> str:
    """Rank in this process."""
    with Runtime.open(store) as runtime:
        runtime.observe_many(["a", "b"])
        return ",".join(runtime.rerank(["c", "d", "e"], 3).items)


def test_ranks_where_torch_cannot_be_imported(store: Path) -> None:
    """Runtime, sync and commands import and work with torch blocked."""
    result = subprocess.run(
        [sys.executable, "-c", RERANK, store, "--refuse"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip() == expected(store)


@pytest.mark.slow
def test_the_wheel_with_the_device_extra_ranks_without_torch(store: Path, tmp_path: Path) -> None:
    """The built wheel, installed with [device] alone in a new environment, re-ranks."""
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", CHECKOUT, "--no-deps", "--wheel-dir", wheels], check=True)
    (wheel,) = wheels.glob("pocketrec-*.whl")
    venv.create(tmp_path / "new", with_pip=False)
    python = tmp_path / "new" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", f"{wheel}[device]"], check=True)

    result = subprocess.run(
        [python, "-I", "-c", RERANK, store],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip() == expected(store)
    assert shutil.which("pocketrec", path=str(python.parent))
