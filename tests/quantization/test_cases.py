# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.cases import CASES_KIND, EvaluationCases
from pocketrec_quantization.tensors import write_tensors

CASES = EvaluationCases(
    items=np.array([3, 1, 2, 2], np.int32),
    offsets=np.array([0, 3, 4], np.int64),
    targets=np.array([1, 3], np.int32),
    n_items=3,
)
FAR = 2**63 - 1


def tensors(**changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file, some of them changed."""
    unchanged: dict[str, NDArray[Any]] = {
        "items": CASES.items,
        "offsets": CASES.offsets,
        "targets": CASES.targets,
        "n_items": np.array([3], np.int64),
    }
    return unchanged | changes


def test_cases_survive_the_journey() -> None:
    """Histories, targets and the size of the catalogue come back as they were."""
    read = EvaluationCases.from_bytes(CASES.to_bytes())

    assert read.n_cases == 2
    assert [read.history(case).tolist() for case in range(2)] == [[3, 1, 2], [2]]
    assert read.targets.tolist() == [1, 3]
    assert read.n_items == 3


def test_equal_cases_are_equal_bytes() -> None:
    """What was read is written as it was."""
    data = CASES.to_bytes()

    assert EvaluationCases.from_bytes(data).to_bytes() == data
    assert data == write_tensors(tensors(), kind=CASES_KIND)


def test_cases_cannot_be_changed() -> None:
    """Who holds cases may rely on them."""
    with pytest.raises(ValueError, match="read-only"):
        CASES.targets[0] = 2


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": np.array([], np.int32), "offsets": np.array([0], np.int64)},
        {"targets": np.array([1], np.int32)},
        {"offsets": np.array([1, 3, 4], np.int64)},
        {"offsets": np.array([0, 3, 3], np.int64)},
        {"offsets": np.array([0, 4, 4], np.int64)},
        {"items": np.array([3, 1, 0, 2], np.int32)},
        {"items": np.array([3, 1, 4, 2], np.int32)},
        {"items": np.array([3, 1, 2, 2], np.int64)},
        {"targets": np.array([1, 4], np.int32)},
        {"n_items": 2},
        {"n_items": -1},
    ],
    ids=str,
)
def test_cases_that_make_no_sense(changes: dict[str, Any]) -> None:
    """Every case has a history and a target, all of them items of the catalogue."""
    with pytest.raises(ConfigError, match="expected"):
        replace(CASES, **changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_items": np.array([3, 3], np.int64)}, "n_items"),
        ({"offsets": np.array([0, 3, 4], np.int32)}, "offsets"),
        ({"items": np.array([3, 1, 2, 9], np.int32)}, "cases"),
        ({"surplus": np.array([1], np.int32)}, "surplus"),
    ],
    ids=["two sizes", "narrow offsets", "unknown item", "surplus tensor"],
)
def test_malformed_files_are_refused(changes: dict[str, NDArray[Any]], field: str) -> None:
    """The error names what is wrong with the bytes."""
    with pytest.raises(MalformedArtifactError) as caught:
        EvaluationCases.from_bytes(write_tensors(tensors(**changes), kind=CASES_KIND))

    assert caught.value.field == field


def test_offsets_whose_differences_wrap_around_are_refused() -> None:
    """Offsets that only rise modulo 2**64 do not pass for rising ones."""
    offsets = np.array([0, FAR, -2, 4], np.int64)
    hostile = tensors(offsets=offsets, targets=np.array([1, 1, 1], np.int32))

    with pytest.raises(MalformedArtifactError, match="to rise"):
        EvaluationCases.from_bytes(write_tensors(hostile, kind=CASES_KIND))


def test_another_kind_of_file_is_refused() -> None:
    """Tensors under another name are no cases."""
    with pytest.raises(MalformedArtifactError, match=r"pocketrec\.cases"):
        EvaluationCases.from_bytes(write_tensors(tensors(), kind="pocketrec.items"))
