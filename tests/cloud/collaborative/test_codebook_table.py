# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative import CodebookShape, CodebookTable, Mixing, RowAssignment
from pocketrec_cloud.collaborative.codebook_table import cluster_means

ROWS = np.array([[1.0, 2.0], [3.0, -2.0], [0.0, 8.0]], np.float32)
LABELS, SECOND = np.array([0, 0, 1, 2]), np.array([1, 0, 2, 2])


def table(assignment: RowAssignment, *warm: np.ndarray) -> CodebookTable:
    """Make a table with first values."""
    return CodebookTable(assignment, init_std=0.1, seed=0, warm=warm or None)


class TestLookup:
    def test_entities_of_a_label_share_its_row(self) -> None:
        """One slot looks rows up."""
        found = table(RowAssignment.shared(LABELS, width=2), ROWS)()

        assert found.tolist() == ROWS[LABELS].tolist()

    def test_a_second_row_is_averaged_in(self) -> None:
        """The vector is the mean of both rows; the same row twice is that row."""
        found = table(RowAssignment.shared(LABELS, secondary=SECOND, width=2), ROWS)()

        assert found.tolist() == [[2.0, 0.0], [1.0, 2.0], [1.5, 3.0], [0.0, 8.0]]

    def test_codebooks_over_disjoint_columns_are_put_side_by_side(self) -> None:
        """A product of codebooks covers each column once."""
        assignment = RowAssignment(
            rows=np.array([[0, 1], [1, 0]]),
            codebooks=(
                CodebookShape(n_rows=2, begin=0, width=1),
                CodebookShape(n_rows=2, begin=1, width=2),
            ),
            codebook_of=(0, 1),
            weights=(1.0, 1.0),
        )
        first = np.array([[5.0], [6.0]], np.float32)

        found = table(assignment, first, ROWS[:2])()

        assert found.tolist() == [[5.0, 3.0, -2.0], [6.0, 1.0, 2.0]]

    def test_a_full_table_is_its_codebook(self) -> None:
        """Rows in order come back as they are, with a gradient for each."""
        found = table(RowAssignment.full(3, 2), ROWS)

        found().sum().backward()

        assert torch.equal(found(), torch.from_numpy(ROWS))
        assert found.codebooks[0].grad is not None
        assert found.codebooks[0].grad.tolist() == [[1.0, 1.0]] * 3

    def test_fewer_entities_than_rows_are_looked_up(self) -> None:
        """The first rows of a larger codebook are no full table."""
        assignment = RowAssignment(
            rows=np.array([[0], [1]]),
            codebooks=(CodebookShape(n_rows=3, begin=0, width=2),),
            codebook_of=(0,),
            weights=(1.0,),
        )

        assert table(assignment, ROWS)().tolist() == ROWS[:2].tolist()


class TestMixing:
    def test_fixed_weights_are_no_parameters(self) -> None:
        """Only codebooks are trained."""
        found = table(RowAssignment.shared(LABELS, secondary=SECOND, width=2))

        assert [name for name, _ in found.named_parameters()] == ["codebooks.0"]

    @pytest.mark.parametrize(("mixing", "shape"), [(Mixing.SLOT, (2,)), (Mixing.ENTITY, (4, 2))])
    def test_learned_weights_start_at_the_mean_and_are_used(
        self, mixing: Mixing, shape: tuple[int, ...]
    ) -> None:
        """Weights have a value per slot, or per entity and slot; a change of them shows."""
        assignment = RowAssignment.shared(LABELS, secondary=SECOND, width=2, mixing=mixing)
        found = table(assignment, ROWS)
        mean = table(RowAssignment.shared(LABELS, secondary=SECOND, width=2), ROWS)()

        assert found.weights.shape == shape
        assert torch.equal(found(), mean)

        with torch.no_grad():
            found.weights[..., 0], found.weights[..., 1] = 1.0, 0.0

        assert found().tolist() == ROWS[LABELS].tolist()


class TestFirstValues:
    def test_a_seed_fixes_them(self) -> None:
        """Equal seeds draw equal rows, others do not."""
        assignment = RowAssignment.full(50, 4)

        first, again, other = (
            CodebookTable(assignment, init_std=0.1, seed=seed)() for seed in (1, 1, 2)
        )

        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert float(first.detach().std()) == pytest.approx(0.1, rel=0.2)

    def test_values_of_another_shape_are_refused(self) -> None:
        """Warm values must fit."""
        with pytest.raises(ConfigError, match="expected first values of shapes"):
            table(RowAssignment.full(4, 2), ROWS)

    def test_means_of_labels(self) -> None:
        """A label's mean is that of its vectors, and zero without any."""
        found = cluster_means(ROWS, np.array([2, 0, 2]), 4)

        assert found.tolist() == [[3.0, -2.0], [0.0, 0.0], [0.5, 5.0], [0.0, 0.0]]
