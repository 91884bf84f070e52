# SPDX-License-Identifier: Apache-2.0
"""The benchmark without a clock: counts of this checkout against the committed ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from benchmarks import counts
from benchmarks.counts import EXPECTED, count_everything, differences
from click.testing import CliRunner


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What this checkout counts."""
    return count_everything()


def test_nothing_grew_or_shrank_unseen(found: dict[str, Any]) -> None:
    """Operators, bytes and Python calls are those that were committed.

    If yours is meant to change them: python -m benchmarks.counts --update
    """
    assert differences(json.loads(EXPECTED.read_text(encoding="utf-8")), found) == []


def test_counts_are_the_same_twice(found: dict[str, Any]) -> None:
    """Nothing of them depends on a clock, an order or an address."""
    assert count_everything() == found


def test_a_change_is_named_with_both_numbers(found: dict[str, Any]) -> None:
    """One more operator, a part more, a call less."""
    changed = copy.deepcopy(found)
    changed["operators"]["sasrec/step/fp32/balanced"]["nodes"] += 1
    changed["bytes"]["another"] = 7
    changed["python_calls"]["rerank"] -= 1

    said = differences(found, changed)

    nodes = found["operators"]["sasrec/step/fp32/balanced"]["nodes"]
    calls = found["python_calls"]["rerank"]
    assert said == [
        f"operators sasrec/step/fp32/balanced nodes: expected {nodes}, found {nodes + 1}",
        f"python_calls rerank: expected {calls}, found {calls - 1}",
        "bytes another: expected none, found 7",
    ]


def test_fewer_bits_are_fewer_bytes(found: dict[str, Any]) -> None:
    """Packed weights are smaller the coarser the preset; float ones only where it prunes."""
    operators = found["operators"]
    speeds = ("battery_saver", "balanced", "full")
    packed, floats = (
        [operators[f"sasrec/step/{kernel}/{speed}"]["weight_bytes"] for speed in speeds]
        for kernel in ("packed", "fp32")
    )

    assert packed == sorted(set(packed))
    assert floats[0] < floats[1] == floats[2]


def test_the_command_ends_with_1_and_says_how_to_update(
    found: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale file fails, an updated one does not."""
    stale = copy.deepcopy(found)
    stale["python_calls"]["step"] += 5
    (tmp_path / "expected.json").write_text(json.dumps(stale))
    monkeypatch.setattr(counts, "EXPECTED", tmp_path / "expected.json")
    monkeypatch.setattr(counts, "count_everything", lambda: found)

    before, update, after = (
        CliRunner().invoke(counts.main, options) for options in ([], ["--update"], [])
    )

    assert (before.exit_code, update.exit_code, after.exit_code) == (1, 0, 0)
    assert "python_calls step" in before.stdout
    assert "--update" in before.stderr
