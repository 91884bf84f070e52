# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec_quantization.vectors import TestVectors, VectorCase

CASE = VectorCase(
    history=np.array([3, 1, 2], np.int32),
    candidates=np.array([1, 0], np.int32),
    scores=np.array([0.5, 0], np.float32),
)
VECTORS = TestVectors(cases=(CASE, CASE), tolerance={"onnxruntime": 1e-05, "numpy": 0.25})


def test_a_part_holds_everything() -> None:
    """Cases in their order and tolerances come back as they were."""
    read = TestVectors.from_bytes(VECTORS.to_bytes())

    assert read.to_bytes() == VECTORS.to_bytes()
    assert len(read.cases) == 2
    assert read.cases[1].history.tolist() == [3, 1, 2]
    assert read.tolerance == {"onnxruntime": 1e-05, "numpy": 0.25}


def test_tolerances_are_per_backend() -> None:
    """A backend the exporter never measured cannot be judged."""
    assert VECTORS.tolerance_of("numpy") == 0.25
    with pytest.raises(IncompatibleArtifactError, match=r"'numpy', 'onnxruntime'.* not 'coreml'"):
        VECTORS.tolerance_of("coreml")


@pytest.mark.parametrize(
    "changes",
    [
        {"history": np.array([], np.int32)},
        {"history": np.array([1], np.int64)},
        {"history": np.array([[1]], np.int32)},
        {"history": np.array([-1], np.int32)},
        {"candidates": np.array([1], np.int32)},
        {"scores": np.array([1, 2], np.float64)},
        {"scores": np.array([1, np.nan], np.float32)},
    ],
)
def test_cases_that_make_no_sense(changes: dict[str, Any]) -> None:
    """A case has events, candidates and a finite score for each of them."""
    with pytest.raises(ConfigError, match="expected"):
        replace(CASE, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"cases": ()},
        {"cases": (CASE,) * 65},
        {"tolerance": {"numpy": 0.0}},
        {"tolerance": {"numpy": float("inf")}},
        {"tolerance": {"a backend": 1.0}},
    ],
)
def test_vectors_that_make_no_sense(changes: dict[str, Any]) -> None:
    """There are 1 to 64 cases, and tolerances are positive numbers."""
    with pytest.raises(ConfigError, match="expected"):
        replace(VECTORS, **changes)
