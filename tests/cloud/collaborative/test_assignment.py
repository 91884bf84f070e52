# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative import CodebookShape, Mixing, RowAssignment


class TestBytes:
    def test_a_full_table_is_its_floats(self) -> None:
        """Rows in their entities' order need no numbers."""
        assert RowAssignment.full(100, 64).embedding_bytes() == 100 * 64 * 4

    def test_narrow_codes_have_a_scale_per_row(self) -> None:
        """Five columns of 4 bits take three bytes, and a row one float32 more."""
        assert RowAssignment.full(100, 5).embedding_bytes(4) == 100 * (3 + 4)

    @pytest.mark.parametrize(("n_rows", "width"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
    def test_row_numbers_take_the_smallest_width(self, n_rows: int, width: int) -> None:
        """A row number takes 1, 2 or 4 bytes, whichever holds the last one."""
        labels = np.array([n_rows - 1, 0, 0])

        found = RowAssignment.shared(labels, width=8)

        assert found.embedding_bytes(8) == n_rows * (8 + 4) + 3 * width

    def test_second_rows_and_their_weights_are_counted(self) -> None:
        """A second slot doubles the numbers; weights per entity take two bytes per slot."""
        labels = np.array([0, 1, 1, 0, 1])
        second = 1 - labels

        fixed = RowAssignment.shared(labels, secondary=second, width=4)
        mixed = RowAssignment.shared(labels, secondary=second, width=4, mixing=Mixing.ENTITY)

        assert fixed.embedding_bytes() == 2 * 16 + 5 * 2
        assert mixed.embedding_bytes() == fixed.embedding_bytes() + 5 * 2 * 2

    def test_a_product_of_codebooks_is_their_sum(self) -> None:
        """Two codebooks of 2 and 3 columns take their rows and one number each per entity."""
        found = RowAssignment(
            rows=np.array([[0, 1], [1, 2], [1, 0], [0, 0]]),
            codebooks=(
                CodebookShape(n_rows=2, begin=0, width=2),
                CodebookShape(n_rows=3, begin=2, width=3),
            ),
            codebook_of=(0, 1),
            weights=(1.0, 1.0),
        )

        assert found.n_rows == 5
        assert found.width == 5
        assert found.embedding_bytes() == 2 * 8 + 3 * 12 + 4 * 2


class TestChecks:
    def test_a_row_beyond_its_codebook_is_refused(self) -> None:
        """Every number must name a row."""
        with pytest.raises(ConfigError, match="rows below 2 in slot 0, found 2"):
            RowAssignment(
                rows=np.array([[0], [2]]),
                codebooks=(CodebookShape(n_rows=2, begin=0, width=4),),
                codebook_of=(0,),
                weights=(1.0,),
            )

    def test_slots_must_agree(self) -> None:
        """As many codebooks and weights as slots."""
        with pytest.raises(ConfigError, match="equally many slots"):
            RowAssignment(
                rows=np.array([[0], [1]]),
                codebooks=(CodebookShape(n_rows=2, begin=0, width=4),),
                codebook_of=(0, 0),
                weights=(1.0,),
            )

    def test_an_empty_codebook_is_refused(self) -> None:
        """A codebook has rows and columns."""
        with pytest.raises(ConfigError, match="rows and columns"):
            CodebookShape(n_rows=0, begin=0, width=4)
