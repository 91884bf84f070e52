# SPDX-License-Identifier: Apache-2.0
"""The interaction graph: checked, without duplicates, its edges in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.compiled import load_kernels, require_libraries

__all__ = ["Edges", "Graph", "read_edges", "read_graph"]

_MOST_NODES = 2**31 - 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edges:
    """Edges by the node they start from.

    Attributes:
        offsets: (N + 1,) int64, where each node's edges begin.
        indices: (E,) int32, the nodes at their other ends.
        data: (E,) float32, what each counts; empty where each counts 1.
    """

    offsets: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]

    @property
    def n_nodes(self) -> int:
        """How many nodes they start from."""
        return self.offsets.size - 1

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """What kernels take."""
        return self.offsets, self.indices, self.data

    def degrees(self) -> NDArray[np.float64]:
        """Return what the edges of each node count together: (N,) float64."""
        if not self.data.size:
            return np.diff(self.offsets).astype(np.float64)
        sums = np.concatenate(([0.0], np.cumsum(self.data, dtype=np.float64)))
        degrees: NDArray[np.float64] = np.diff(sums[self.offsets])
        return degrees


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """Users and items as one range of nodes, users first.

    Attributes:
        edges: Of U + V nodes, each edge in both directions.
        n_users: U.
    """

    edges: Edges
    n_users: int

    @property
    def n_nodes(self) -> int:
        """U + V."""
        return self.edges.n_nodes

    @property
    def n_items(self) -> int:
        """V."""
        return self.edges.n_nodes - self.n_users

    @property
    def n_edges(self) -> int:
        """E, each edge once."""
        return self.edges.indices.size // 2

    def sides(self) -> tuple[Edges, Edges]:
        """Return edges of users to items, and of items to users, each numbered from 0."""
        offsets, indices, data = self.edges.arrays
        n_users, n_edges = self.n_users, self.n_edges
        users = Edges(
            offsets=offsets[: n_users + 1],
            indices=indices[:n_edges] - np.int32(n_users),
            data=data[: data.size // 2],
        )
        items = Edges(
            offsets=offsets[n_users:] - n_edges,
            indices=indices[n_edges:],
            data=data[data.size // 2 :],
        )
        return users, items


def read_edges(biadjacency: Any, *, is_weighted: bool) -> Edges:
    """Return the edges of rows to columns of any scipy sparse matrix, which stays as it is.

    Duplicates are one edge. Stored zeros are none.

    Args:
        biadjacency: (U, V) scipy sparse matrix or array of finite numbers, none below 0.
        is_weighted: Whether values count; duplicates then count together. Otherwise every
            edge counts 1.

    Raises:
        ConfigError: It is no sparse matrix of two dimensions, or its arrays contradict each
            other, or a number is complex, below 0, NaN or infinite, or, where values count,
            beyond float32, or it has more rows and columns than int32 can number.
        MissingExtraError: scipy is not installed.
    """
    require_libraries()
    from scipy import sparse

    if not sparse.issparse(biadjacency) or len(biadjacency.shape) != 2:
        raise ConfigError(
            "biadjacency: expected a scipy sparse matrix (U, V), got "
            f"{type(biadjacency).__name__} of shape {getattr(biadjacency, 'shape', None)}"
        )
    if biadjacency.dtype.kind not in "biuf":
        raise ConfigError(f"biadjacency: expected real numbers, got {biadjacency.dtype}")
    if sum(biadjacency.shape) > _MOST_NODES:
        raise ConfigError(
            f"biadjacency: expected at most {_MOST_NODES} users and items, got {biadjacency.shape}"
        )
    matrix = _without_duplicates(biadjacency, is_weighted=is_weighted)
    if is_weighted:
        _check_range(matrix.data)
    # numba takes no read-only arrays, such as those of a file in memory
    return Edges(
        offsets=np.require(matrix.indptr, np.int64, ["C", "W"]),
        indices=np.require(matrix.indices, np.int32, ["C", "W"]),
        data=np.require(matrix.data if is_weighted else np.empty(0), np.float32, ["C", "W"]),
    )


def _without_duplicates(biadjacency: Any, *, is_weighted: bool) -> Any:
    """Return a CSR matrix whose indices are in range, without duplicates and stored zeros."""
    from scipy import sparse

    # What occurs often must not overflow the narrow integers of a log: 256 ones are no 0.
    kind = np.result_type(biadjacency.dtype, np.float32) if is_weighted else np.dtype(np.bool_)
    matrix = _as_csr(biadjacency, kind)
    _check_values(matrix.data)
    if not matrix.has_canonical_format or not matrix.data.all():
        arrays = matrix.data.astype(kind), matrix.indices.copy(), matrix.indptr.copy()
        matrix = sparse.csr_array(arrays, shape=matrix.shape)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    return matrix


def _as_csr(biadjacency: Any, kind: np.dtype[Any]) -> Any:
    """Return a CSR matrix; duplicates that its making adds up are of this type."""
    from scipy import sparse

    try:
        if biadjacency.format in {"bsr", "csc", "csr"}:
            biadjacency.check_format(full_check=True)
        if biadjacency.format not in {"bsr", "coo"}:
            return biadjacency.tocsr()
        pairs = biadjacency.tocoo(copy=False)
        data = pairs.data.astype(kind, copy=False)
        checked = sparse.coo_array((data, (pairs.row, pairs.col)), shape=pairs.shape)
    except ValueError as error:
        raise ConfigError(f"biadjacency: expected a valid sparse matrix: {error}") from error
    _check_values(pairs.data)
    return checked.tocsr()


def _check_values(values: NDArray[Any]) -> None:
    """Refuse NaN, infinite numbers and those below 0."""
    # min and max find NaN too, without an array of flags
    if values.size and not (values.min() >= 0 and values.max() < np.inf):
        raise ConfigError(
            "biadjacency: expected finite numbers, none below 0, found from "
            f"{values.min()} to {values.max()}"
        )


def _check_range(values: NDArray[Any]) -> None:
    """Refuse numbers above 0 that float32 would make 0, imprecise or infinite."""
    limits = np.finfo(np.float32)
    if values.size and not limits.tiny <= values.min() <= values.max() <= limits.max:
        raise ConfigError(
            f"biadjacency: expected values from {limits.tiny} to {limits.max}, found from "
            f"{values.min()} to {values.max()}; divide all by the same number"
        )


def read_graph(biadjacency: Any, *, is_weighted: bool) -> Graph:
    """Return the graph of a scipy sparse matrix.

    Peaks at 16 bytes per edge and 16 per node beyond the matrix; 8 more per edge where values
    count or the matrix has duplicates.

    Args:
        biadjacency: (U, V), as `read_edges` takes it.
        is_weighted: As for `read_edges`.

    Raises:
        ConfigError: As `read_edges`, or there is no edge at all.
        MissingExtraError: numba or scipy is not installed.
    """
    edges = read_edges(biadjacency, is_weighted=is_weighted)
    if not edges.indices.size:
        raise ConfigError("biadjacency: expected at least one interaction, found none")
    n_users, n_items = biadjacency.shape
    both = Edges(
        offsets=np.zeros(n_users + n_items + 1, np.int64),
        indices=np.empty(2 * edges.indices.size, np.int32),
        data=np.empty(2 * edges.data.size, np.float32),
    )
    load_kernels().mirror(edges.arrays, both.arrays)
    return Graph(edges=both, n_users=n_users)
