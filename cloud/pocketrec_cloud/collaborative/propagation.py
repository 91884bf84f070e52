# SPDX-License-Identifier: Apache-2.0
"""LightGCN's propagation: the mean over layers of vectors smoothed on the interaction graph."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from pocketrec_cloud.collaborative.codebook_table import CodebookTable

__all__ = ["GraphModel", "normalised_adjacency", "propagate"]


def normalised_adjacency(biadjacency: Any) -> Any:
    """Return the symmetrically normalised adjacency of users, then items.

    Args:
        biadjacency: (U, V) scipy sparse.

    Returns:
        (U + V, U + V) CSR float32: an edge of degrees a and b weighs 1 / sqrt(a b).

    Source:
        He et al. 2020 (LightGCN), eq. (3) and (8).
    """
    edges = sparse.csr_matrix(biadjacency, dtype=np.float64)
    inverse = [
        np.divide(1, np.sqrt(degree), out=np.zeros(degree.shape), where=degree > 0)
        for degree in (np.asarray(edges.sum(axis)).ravel() for axis in (1, 0))
    ]
    scaled = sparse.diags(inverse[0]) @ edges @ sparse.diags(inverse[1])
    return sparse.bmat([[None, scaled], [scaled.T, None]], format="csr", dtype=np.float32)


class _Smoothing(torch.autograd.Function):
    """Mean over 0..L of A^l X; A is symmetric, so that its own gradient is itself."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, adjacency: Tensor, n_layers: int) -> Tensor:
        ctx.adjacency, ctx.n_layers = adjacency, n_layers
        return _smooth(vectors, adjacency, n_layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _smooth(gradients[0].contiguous(), ctx.adjacency, ctx.n_layers), None, None


def _smooth(vectors: Tensor, adjacency: Tensor, n_layers: int) -> Tensor:
    # Horner's scheme: X + A(X + A X) needs one buffer less than a sum of powers.
    total = vectors
    for _ in range(n_layers):
        total = torch.addmm(vectors, adjacency, total)
    return total / (n_layers + 1)


def propagate(vectors: Tensor, adjacency: Tensor, n_layers: int) -> Tensor:
    """Return the mean of the vectors and of their first ``n_layers`` propagations.

    Args:
        vectors: (U + V, D) float32.
        adjacency: (U + V, U + V) sparse CSR float32, symmetric.
        n_layers: L; with 0 the vectors come back.

    Returns:
        (U + V, D) float32.

    Source:
        He et al. 2020 (LightGCN), eq. (4) with equal layer weights.
    """
    smoothed: Tensor = _Smoothing.apply(vectors, adjacency, n_layers)  # type: ignore[no-untyped-call]
    return smoothed


class GraphModel(nn.Module):
    """LightGCN, or matrix factorisation with no layers.

    Args:
        users: Table of U users.
        items: Table of V items.
        biadjacency: (U, V) scipy sparse, the train interactions.
        n_layers: L.

    Raises:
        ConfigError: The tables do not fit the matrix, or each other.
    """

    def __init__(
        self, users: CodebookTable, items: CodebookTable, biadjacency: Any, *, n_layers: int
    ) -> None:
        super().__init__()
        found = (users.assignment.n_entities, items.assignment.n_entities)
        if found != biadjacency.shape or users.assignment.width != items.assignment.width:
            raise ConfigError(
                f"expected tables of equal width for {biadjacency.shape}, found {found} of widths "
                f"{users.assignment.width} and {items.assignment.width}"
            )
        self.users = users
        self.items = items
        self.n_layers = n_layers
        self.adjacency = _to_torch(normalised_adjacency(biadjacency)) if n_layers else None

    @property
    def n_users(self) -> int:
        """U."""
        return self.users.assignment.n_entities

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return what scores and what it came from, users first, then items.

        Returns:
            (U + V, D) float32 vectors whose inner products are scores, and the same before
            propagation.
        """
        own = torch.cat([self.users(), self.items()])
        if self.adjacency is None:
            return own, own
        return propagate(own, self.adjacency, self.n_layers), own


def _to_torch(matrix: Any) -> Tensor:
    with warnings.catch_warnings():
        # torch calls its CSR support beta, once per process.
        warnings.simplefilter("ignore", UserWarning)
        # int64 numbers are the faster path of torch's own kernel.
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
            check_invariants=True,
        )
