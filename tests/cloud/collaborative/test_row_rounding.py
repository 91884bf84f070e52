# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative.row_rounding import round_rows


class TestRounding:
    def test_multiples_of_a_scale_stay(self) -> None:
        """What 4 bits can say exactly comes back, zeros too."""
        rows = np.array([[7, -7, 3, 0], [0, 0, 0, 0]], np.float32) * 0.25

        assert np.allclose(round_rows(rows, 4), rows, atol=1e-7)

    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_a_row_takes_as_many_values_as_its_bits_say(self, bits: int) -> None:
        """Codes are symmetric around zero."""
        rows = np.random.default_rng(0).normal(size=(5, 4000)).astype(np.float32)

        found = round_rows(rows, bits)

        most = max(np.unique(row).size for row in found)
        assert 0.8 * 2**bits - 1 < most <= 2**bits - 1

    def test_error_is_no_larger_than_without_clipping(self) -> None:
        """The widest scale is among those tried."""
        rows = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
        scale = np.abs(rows).max(axis=1, keepdims=True) / 7
        plain = np.rint(rows / scale) * scale

        error = np.square(round_rows(rows, 4) - rows).sum(axis=1)

        limit = np.square(plain - rows).sum(axis=1)
        assert np.all(error <= limit * (1 + 1e-5))
        assert error.sum() < 0.9 * limit.sum()

    def test_other_widths_are_refused(self) -> None:
        """One bit has no zero."""
        with pytest.raises(ConfigError, match="2 to 8 bits"):
            round_rows(np.ones((1, 2), np.float32), 1)
