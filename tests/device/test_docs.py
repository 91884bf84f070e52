# SPDX-License-Identifier: Apache-2.0
"""What ``docs/device.md`` shows is what happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.item_table import ItemTable

GUIDE = Path(__file__).parents[2] / "docs" / "device.md"
GROCERIES = ("bread", "butter", "honey", "jam", "milk", "salt", "tea")


def test_the_ten_lines_print_what_the_guide_says(
    tmp_path: Path,
    make_bundle: Callable[..., BundleFolder],
    make_items: Callable[..., ItemTable],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The guide's program runs as it stands, and gives the guide's output."""
    program, output = re.findall(r"```(?:python|text)\n(.*?)```", GUIDE.read_text(), re.DOTALL)[:2]
    make_bundle(items=make_items(1, GROCERIES)).path.rename(tmp_path / "bundle")
    (tmp_path / "root.json").write_bytes(b'{"signed": {"_type": "root"}}')
    monkeypatch.chdir(tmp_path)

    exec(compile(program, str(GUIDE), "exec"), {})  # that is the test

    assert capsys.readouterr().out == output
