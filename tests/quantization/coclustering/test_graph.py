# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering.graph import read_edges, read_graph

DENSE = np.array([[1, 0, 2], [0, 0, 0], [0, 3, 1]], np.float64)


class TestReadEdges:
    @pytest.mark.parametrize("layout", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
    @pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
    def test_every_sparse_format_gives_the_same(self, layout: str, kind: type) -> None:
        """Arrays and matrices of all formats are read alike, and stay as they are."""
        matrix = kind(DENSE).asformat(layout)

        edges = read_edges(matrix, is_weighted=True)

        assert edges.offsets.tolist() == [0, 2, 2, 4]
        assert edges.indices.tolist() == [0, 2, 1, 2]
        assert edges.data.tolist() == [1, 2, 3, 1]
        assert edges.degrees().tolist() == [3, 0, 4]
        np.testing.assert_array_equal(matrix.toarray(), DENSE)

    def test_without_values_every_edge_counts_one(self) -> None:
        """Values are left out unless they are asked for."""
        edges = read_edges(sparse.csr_array(DENSE), is_weighted=False)

        assert edges.data.size == 0
        assert edges.degrees().tolist() == [2, 0, 2]

    def test_duplicates_are_one_edge(self) -> None:
        """A pair stored three times is one edge; with values, they add up."""
        pairs = (np.array([1.0, 1.0, 2.0]), (np.array([0, 0, 0]), np.array([1, 1, 1])))
        matrix = sparse.coo_array(pairs, shape=(1, 2))

        plain, weighted = (read_edges(matrix, is_weighted=flag) for flag in (False, True))

        assert plain.degrees().tolist() == [1]
        assert weighted.degrees().tolist() == [4]
        assert matrix.nnz == 3

    def test_duplicates_in_rows_leave_the_matrix_alone(self) -> None:
        """A CSR matrix with duplicates and a stored zero is not tidied in place."""
        matrix = sparse.csr_array(
            (np.array([1.0, 1.0, 0.0]), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 2)
        )

        edges = read_edges(matrix, is_weighted=False)

        assert edges.indices.tolist() == [1]
        assert matrix.data.tolist() == [1, 1, 0]

    @pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
    @pytest.mark.parametrize("kind", [np.uint8, np.int8, np.bool_, np.float32])
    def test_pairs_that_occur_often_do_not_overflow(self, layout: str, kind: type) -> None:
        """256 events of one byte are one edge, and count 256 where values count."""
        ones: Any = np.ones(256, kind)
        matrix = sparse.coo_array((ones, (np.zeros(256, int), np.ones(256, int))), shape=(1, 2))
        if layout == "csr":
            matrix = sparse.csr_array((ones, np.ones(256, int), np.array([0, 256])), shape=(1, 2))
        if layout == "csc":
            matrix = sparse.csc_array((ones, np.zeros(256, int), [0, 0, 256]), shape=(1, 2))

        plain, weighted = (read_edges(matrix, is_weighted=flag) for flag in (False, True))

        assert plain.indices.tolist() == weighted.indices.tolist() == [1]
        assert weighted.data.tolist() == [256]
        assert matrix.nnz == 256

    def test_arrays_that_may_not_be_written_are_read(self) -> None:
        """A matrix over files mapped into memory is a matrix like others."""
        matrix = sparse.csr_array(DENSE)
        for array in (matrix.data, matrix.indices, matrix.indptr):
            array.flags.writeable = False

        graph = read_graph(matrix, is_weighted=True)

        assert graph.edges.indices.tolist() == [3, 5, 4, 5, 0, 2, 0, 2]

    @pytest.mark.parametrize("wrong", [1e-60, 1e39])
    def test_values_beyond_float32_are_refused_where_they_count(self, wrong: float) -> None:
        """An edge would count nothing, or more than everything."""
        matrix = sparse.csr_array(np.array([[1.0, wrong]]))

        assert read_edges(matrix, is_weighted=False).degrees().tolist() == [2]
        with pytest.raises(ConfigError, match="divide all"):
            read_edges(matrix, is_weighted=True)

    @pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
    def test_indices_beyond_the_shape_are_refused(self, layout: str) -> None:
        """The loops over edges look nowhere but into the matrix."""
        matrix = sparse.csr_array(DENSE).asformat(layout)
        (matrix.col if layout == "coo" else matrix.indices)[0] = 3

        with pytest.raises(ConfigError, match="valid sparse matrix"):
            read_edges(matrix, is_weighted=False)

    @pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
    @pytest.mark.parametrize("is_weighted", [False, True])
    def test_impossible_values_are_refused(self, wrong: float, is_weighted: bool) -> None:
        """Numbers below 0, NaN and infinity are errors, even where values do not count."""
        matrix = sparse.csr_array(np.array([[1.0, wrong]]))

        with pytest.raises(ConfigError, match="none below 0"):
            read_edges(matrix, is_weighted=is_weighted)

    @pytest.mark.parametrize(
        "wrong",
        [
            np.ones((2, 2)),
            [[1, 1]],
            None,
            sparse.coo_array(np.ones(3)),
            sparse.csr_array(np.ones((2, 2), np.complex64)),
        ],
        ids=["dense", "list", "none", "one dimension", "complex"],
    )
    def test_what_is_no_matrix_of_interactions_is_refused(self, wrong: object) -> None:
        """Only sparse matrices of two dimensions and real numbers are interactions."""
        with pytest.raises(ConfigError, match="biadjacency: expected"):
            read_edges(wrong, is_weighted=False)


class TestReadGraph:
    @pytest.mark.parametrize("is_weighted", [False, True])
    def test_edges_go_both_ways(self, is_weighted: bool) -> None:
        """Users come first, items after them, and each edge is in both their lists."""
        graph = read_graph(sparse.csr_array(DENSE), is_weighted=is_weighted)

        assert (graph.n_users, graph.n_items, graph.n_edges) == (3, 3, 4)
        assert graph.edges.offsets.tolist() == [0, 2, 2, 4, 5, 6, 8]
        assert graph.edges.indices.tolist() == [3, 5, 4, 5, 0, 2, 0, 2]
        assert graph.edges.data.tolist() == ([1, 2, 3, 1, 1, 3, 2, 1] if is_weighted else [])

    def test_sides_are_numbered_from_nought(self) -> None:
        """The edges of items are those of the transposed matrix."""
        users, items = read_graph(sparse.csr_array(DENSE), is_weighted=True).sides()

        expected = read_edges(sparse.csr_array(DENSE.T), is_weighted=True)
        np.testing.assert_array_equal(items.offsets, expected.offsets)
        np.testing.assert_array_equal(items.indices, expected.indices)
        np.testing.assert_array_equal(items.data, expected.data)
        assert users.indices.tolist() == [0, 2, 1, 2]

    @pytest.mark.parametrize("shape", [(0, 0), (3, 0), (2, 2)])
    def test_a_graph_without_edges_is_refused(self, shape: tuple[int, int]) -> None:
        """Nothing can be learnt from no interaction."""
        with pytest.raises(ConfigError, match=re.escape("at least one interaction")):
            read_graph(sparse.csr_array(shape), is_weighted=False)
