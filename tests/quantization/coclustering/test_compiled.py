# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import pytest

from pocketrec.errors import MissingExtraError
from pocketrec_quantization.coclustering import compiled as module
from pocketrec_quantization.coclustering.compiled import compiled, require_libraries


@pytest.mark.parametrize("missing", ["numba", "scipy"])
def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without numba or scipy the error says what to install."""

    def find(name: str) -> ModuleSpec | None:
        return None if name == missing else find_spec(name)

    monkeypatch.setattr(module, "find_spec", find)

    with pytest.raises(MissingExtraError, match=rf"{missing}.*pip install 'pocketrec\[cloud\]'"):
        require_libraries()


def test_code_that_cannot_be_kept_is_compiled_all_the_same() -> None:
    """A function without a file, whose machine code has no folder to go to, still runs."""
    names: dict[str, object] = {}
    exec("def double(number):\n    return 2 * number", names)
    double = names["double"]
    assert callable(double)

    assert compiled("i8(i8)")(double)(21) == 42
