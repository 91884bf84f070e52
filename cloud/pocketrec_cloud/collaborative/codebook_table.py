# SPDX-License-Identifier: Apache-2.0
"""An embedding table made of codebooks, trained end to end while its assignment stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative.assignment import Mixing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pocketrec_cloud.collaborative.assignment import RowAssignment

__all__ = ["CodebookTable", "cluster_means"]


class CodebookTable(nn.Module):
    """Vectors of N entities from codebook rows.

    Args:
        assignment: Which rows; fixed.
        init_std: Standard deviation of the first values.
        seed: Of the first values.
        warm: One (K, W) float32 array per codebook to start from instead.

    Raises:
        ConfigError: ``warm`` does not fit the codebooks.
    """

    def __init__(
        self,
        assignment: RowAssignment,
        *,
        init_std: float,
        seed: int,
        warm: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        super().__init__()
        self.assignment = assignment
        generator = torch.Generator().manual_seed(seed)
        shapes = [(shape.n_rows, shape.width) for shape in assignment.codebooks]
        if warm is None:
            values = [torch.randn(shape, generator=generator) * init_std for shape in shapes]
        else:
            if [array.shape for array in warm] != shapes:
                found = [array.shape for array in warm]
                raise ConfigError(f"expected first values of shapes {shapes}, found {found}")
            values = [torch.from_numpy(np.array(array, np.float32)) for array in warm]
        self.codebooks = nn.ParameterList(values)
        self.rows: Tensor
        self.weights: Tensor
        numbers = np.arange(assignment.n_entities)
        self._is_whole = [
            codebook_rows == numbers.size and np.array_equal(rows, numbers)
            for rows, codebook_rows in zip(
                assignment.rows.T,
                (assignment.codebooks[number].n_rows for number in assignment.codebook_of),
                strict=True,
            )
        ]
        self.register_buffer("rows", torch.from_numpy(assignment.rows.T.copy()))
        weights = torch.tensor(assignment.weights, dtype=torch.float32)
        if assignment.mixing is Mixing.ENTITY:
            weights = weights.repeat(assignment.n_entities, 1)
        if assignment.mixing is Mixing.FIXED:
            self.register_buffer("weights", weights)
        else:
            self.weights = nn.Parameter(weights)

    def forward(self) -> Tensor:
        """Return (N, D) float32, the vectors of all entities."""
        found = self.assignment
        total: Tensor | None = None
        for slot, number in enumerate(found.codebook_of):
            shape = found.codebooks[number]
            codebook = self.codebooks[number]
            # A lookup of every row in order is the codebook, and needs no scattered gradient.
            is_whole = self._is_whole[slot]
            part = codebook if is_whole else functional.embedding(self.rows[slot], codebook)
            weight = self.weights[..., slot]
            if found.mixing is not Mixing.FIXED or found.weights[slot] != 1.0:
                part = part * (weight[:, None] if weight.ndim else weight)
            if shape.width < found.width:
                end = found.width - shape.begin - shape.width
                part = functional.pad(part, (shape.begin, end))
            total = part if total is None else total + part
        if total is None:
            raise ConfigError("expected at least one slot, found none")
        return total


def cluster_means(
    vectors: NDArray[np.float32], labels: NDArray[np.integer], n_rows: int
) -> NDArray[np.float32]:
    """Return the mean vector of each label.

    Args:
        vectors: (N, D) float32.
        labels: (N,) integer, from 0.
        n_rows: K.

    Returns:
        (K, D) float32; a label that nothing has gets zeros.
    """
    counts = np.bincount(labels, minlength=n_rows).astype(np.float64)
    sums = np.zeros((n_rows, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    means: NDArray[np.float32] = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return means
