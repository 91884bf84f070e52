# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.extract_vectors import (
    EXTRACT_VECTORS_KIND,
    ExtractCase,
    ExtractVectors,
)
from pocketrec_quantization.tensors import write_tensors

CASE = ExtractCase(history=np.array([3, 1], np.int32), z=np.array([0.5, -1], np.float32))
VECTORS = ExtractVectors(cases=(CASE, CASE), tolerance=1e-05)


def test_a_part_holds_everything() -> None:
    """Cases in their order and the tolerance come back as they were."""
    read = ExtractVectors.from_bytes(VECTORS.to_bytes())

    assert read.to_bytes() == VECTORS.to_bytes()
    assert len(read.cases) == 2
    assert read.cases[1].history.tolist() == [3, 1]
    assert read.cases[1].z.tolist() == [0.5, -1]
    assert read.tolerance == 1e-05


@pytest.mark.parametrize(
    "changes",
    [
        {"history": np.array([], np.int32)},
        {"history": np.array([1], np.int64)},
        {"history": np.array([-1], np.int32)},
        {"z": np.array([1], np.float64)},
        {"z": np.array([], np.float32)},
        {"z": np.array([[1]], np.float32)},
        {"z": np.array([np.inf], np.float32)},
    ],
)
def test_cases_that_make_no_sense(changes: dict[str, Any]) -> None:
    """A case has events, and a finite user embedding after them."""
    with pytest.raises(ConfigError, match="expected"):
        replace(CASE, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cases": ()},
        {"cases": (CASE,) * 65},
        {"cases": (CASE, replace(CASE, z=np.zeros(3, np.float32)))},
        {"tolerance": 0.0},
        {"tolerance": float("nan")},
    ],
)
def test_vectors_that_make_no_sense(changes: dict[str, Any]) -> None:
    """One to 64 cases of one dimension, and an error that is allowed."""
    with pytest.raises(ConfigError, match="expected"):
        replace(VECTORS, **changes)


@pytest.mark.parametrize(
    "metadata", [{"n_cases": "65"}, {"n_cases": "0"}, {"n_cases": "1", "tolerance": "-1"}]
)
def test_damaged_parts(metadata: dict[str, str]) -> None:
    """A part is refused for what it says, before or after its arrays are looked at."""
    tensors = {"history/0": CASE.history, "z/0": CASE.z}
    data = write_tensors(
        tensors, kind=EXTRACT_VECTORS_KIND, metadata={"tolerance": "1e-05", **metadata}
    )

    with pytest.raises(MalformedArtifactError):
        ExtractVectors.from_bytes(data)
