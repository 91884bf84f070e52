# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pocketrec_quantization
from pocketrec_quantization import bitpack, limits

MODULES = sorted(module.name for module in pkgutil.iter_modules(pocketrec_quantization.__path__))
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


def test_public_names_exist_and_are_few() -> None:
    """What the package exports exists, is sorted, and fits on a screen."""
    names = pocketrec_quantization.__all__

    assert len(names) == len(set(names)) <= 12
    assert all(hasattr(pocketrec_quantization, name) for name in names)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_offers(name: str) -> None:
    """Each module has a docstring, and lists names that it has."""
    module = importlib.import_module(f"pocketrec_quantization.{name}")

    assert module.__doc__
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("module", [pocketrec_quantization, bitpack])
def test_examples_in_docstrings_run(module: object) -> None:
    """The examples that docstrings show give the output they show."""
    result = doctest.testmod(module)  # type: ignore[arg-type]  # a module, or it fails

    assert result.attempted > 0
    assert result.failed == 0


def test_devices_import_nothing_heavy() -> None:
    """Importing the package loads neither torch nor a runtime nor gRPC."""
    heavy = "torch", "onnx", "onnxruntime", "grpc", "scipy", "safetensors", "pandas"
    probe = (
        "import pocketrec_quantization, pocketrec_quantization.reference, sys;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )

    output = subprocess.run(
        [sys.executable, "-c", probe],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert output.stdout.strip() == "[]"


def test_documented_limits_are_the_enforced_ones() -> None:
    """The table of limits in docs/format.md holds the numbers of limits.py, all of them."""
    rows = re.findall(r"^\| `(MAX_\w+)` \| ([\d,]+) \|", FORMAT.read_text("utf-8"), re.MULTILINE)

    documented = {name: int(number.replace(",", "")) for name, number in rows}

    assert documented == {name: getattr(limits, name) for name in limits.__all__}
