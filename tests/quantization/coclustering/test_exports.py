# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

from pocketrec_quantization import coclustering

MODULES = sorted(module.name for module in pkgutil.iter_modules(coclustering.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_offers(name: str) -> None:
    """Each module has a docstring, and lists names that it has."""
    module = importlib.import_module(f"pocketrec_quantization.coclustering.{name}")

    assert module.__doc__
    assert module.__all__ == sorted(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


def test_the_example_runs() -> None:
    """The example in the package's docstring gives the output that it shows."""
    result = doctest.testmod(coclustering)

    assert result.attempted > 0
    assert result.failed == 0


def test_importing_loads_no_library() -> None:
    """Importing the package loads neither numba nor scipy."""
    probe = (
        "import pocketrec_quantization.coclustering, sys;"
        "print([m for m in ('numba', 'scipy') if m in sys.modules])"
    )

    output = subprocess.run(
        [sys.executable, "-c", probe],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert output.stdout.strip() == "[]"
