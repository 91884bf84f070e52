# SPDX-License-Identifier: Apache-2.0
"""Exported functions are run before they are published."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import QuantizationError
from pocketrec_cloud.graph_checks import OnnxFunctions, check_functions
from pocketrec_quantization.attention_bias import RingBias, stack_relative_bias
from pocketrec_quantization.bundle import PREFILL, SCORE, STEP
from pocketrec_quantization.vectors import TestVectors

if TYPE_CHECKING:
    from tests.cloud.conftest import Built

PARTS = {"prefill": PREFILL, "step": STEP, "score": SCORE}


def relative_bias_of(built: Built) -> np.ndarray:
    """Return the bundle's biases by distance."""
    dense = built.bundle.read_frozen().dense
    return stack_relative_bias(dense, built.bundle.manifest.backbone.n_blocks)


def functions_of(built: Built, *, scale: float = 1.0) -> OnnxFunctions:
    """Return the bundle's graphs under its default plan, its weights scaled."""
    bundle = built.bundle
    weights = bundle.read_frozen().adapt(bundle.read_default_plan().widths)
    graphs = {name: bundle.read(part) for name, part in PARTS.items()}
    scaled = {name: array * np.float32(scale) for name, array in weights.items()}
    return OnnxFunctions(graphs, scaled, relative_bias_of(built))


def check(built: Built, functions: OnnxFunctions, vectors: TestVectors) -> None:
    """Compare functions with vectors, on the bundle's items."""
    check_functions(functions, built.bundle.read_items(), vectors)


def test_a_good_export_passes(tiny_build: Built) -> None:
    """Prefill and step both lead to the scores of the reference."""
    check(tiny_build, functions_of(tiny_build), tiny_build.bundle.read_vectors())


def test_other_weights_are_noticed(tiny_build: Built) -> None:
    """Weights one percent off move a score beyond the tolerance."""
    with pytest.raises(QuantizationError, match="onnxruntime: prefill"):
        check(tiny_build, functions_of(tiny_build, scale=1.01), tiny_build.bundle.read_vectors())


def test_a_wrong_step_is_noticed(tiny_build: Built) -> None:
    """A step that ignores what was cached is caught although prefill is right."""
    functions = functions_of(tiny_build)
    honest = functions.step

    def forgetful(
        x: np.ndarray, keys: np.ndarray, values: np.ndarray, bias: np.ndarray
    ) -> np.ndarray:
        hidden = np.full_like(bias, -np.inf)
        hidden[..., 0] = bias[..., 0]
        return honest(x, keys, values, hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "step", forgetful)
        with pytest.raises(QuantizationError, match="onnxruntime: step"):
            check(tiny_build, functions, tiny_build.bundle.read_vectors())


@pytest.mark.parametrize("function", ["prefill", "step"])
def test_other_biases_are_noticed(tiny_build: Built, function: str) -> None:
    """Biases are the host's: functions that are given others do not pass either."""
    functions = functions_of(tiny_build)
    wrong = relative_bias_of(tiny_build)[..., ::-1] + 1
    if function == "step":
        functions._ring = RingBias(wrong)
    else:
        functions._relative_bias = wrong

    with pytest.raises(QuantizationError, match=f"onnxruntime: {function}"):
        check(tiny_build, functions, tiny_build.bundle.read_vectors())


def test_scores_that_are_not_finite_fail(tiny_build: Built) -> None:
    """NaN compares as false with everything, and must not pass for equal."""
    vectors = tiny_build.bundle.read_vectors()
    lenient = replace(vectors, tolerance=dict.fromkeys(vectors.tolerance, 1e30))

    with pytest.raises(QuantizationError):
        check(tiny_build, functions_of(tiny_build, scale=float("nan")), lenient)
