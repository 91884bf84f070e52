# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.weighting import Weighting, WeightScheme, read_schemes

DEGREES = np.array([1.0, 3.0, 0.0])


class TestWeighting:
    @pytest.mark.parametrize(
        ("scheme", "expected"),
        [
            ("uniform", np.array([1, 1, 1]) / math.sqrt(3)),
            ("degree", np.array([1, 3, 0]) / 2),
            ("sqrt", np.array([1, math.sqrt(3), 0]) / math.sqrt(1 + math.sqrt(3))),
            ("log", np.log([2, 4, 1]) / math.sqrt(math.log(8))),
            ("degree_per_node", np.array([1, 3, 0]) / math.sqrt(3)),
        ],
    )
    def test_weights_are_those_of_the_formulas(
        self, scheme: str, expected: np.ndarray[tuple[int], np.dtype[np.float64]]
    ) -> None:
        """Each scheme is its function of the degree over its norm."""
        weighting = Weighting.of(DEGREES, WeightScheme(scheme))

        np.testing.assert_allclose(weighting.weights(DEGREES), expected)

    def test_newcomers_are_weighed_by_the_old_norm(self) -> None:
        """The norm is that of the graph which the weighting was made of."""
        weighting = Weighting.of(DEGREES, WeightScheme.DEGREE)

        assert weighting.weights(np.array([8.0])).tolist() == [4.0]

    def test_unknown_schemes_are_named(self) -> None:
        """The message lists what there is."""
        with pytest.raises(ConfigError, match="weights: expected one of uniform, degree, sqrt"):
            read_schemes("cubic", "weights")
