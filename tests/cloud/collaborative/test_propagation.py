# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cloud.collaborative.graphs import matrix

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative import CodebookTable, GraphModel, RowAssignment
from pocketrec_cloud.collaborative.propagation import normalised_adjacency

GRAPH = matrix([(0, 0), (0, 1), (1, 1), (2, 1), (2, 3)], (4, 5))


def model(n_layers: int) -> GraphModel:
    """Make a model of full tables."""
    users, items = (
        CodebookTable(RowAssignment.full(n, 3), init_std=1.0, seed=n) for n in GRAPH.shape
    )
    return GraphModel(users, items, GRAPH, n_layers=n_layers)


def dense_powers(n_layers: int) -> np.ndarray:
    """Return the mean of the powers 0..L of the dense normalised adjacency."""
    edges = GRAPH.toarray().astype(np.float64)
    n_users = edges.shape[0]
    adjacency = np.zeros((sum(edges.shape),) * 2)
    for user, item in zip(*edges.nonzero(), strict=True):
        weight = 1 / np.sqrt(edges[user].sum() * edges[:, item].sum())
        adjacency[user, n_users + item] = adjacency[n_users + item, user] = weight
    powers = [np.linalg.matrix_power(adjacency, power) for power in range(n_layers + 1)]
    mean: np.ndarray = np.mean(powers, axis=0)
    return mean


class TestAdjacency:
    def test_an_edge_weighs_by_both_degrees(self) -> None:
        """User 0 has two items, item 1 three users; nobody met item 2."""
        found = normalised_adjacency(GRAPH).toarray()

        assert found[0, 4 + 1] == pytest.approx(1 / np.sqrt(2 * 3))
        assert np.array_equal(found, found.T)
        assert not found[4 + 2].any()


class TestGraphModel:
    @pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
    def test_propagation_is_the_mean_of_dense_powers(self, n_layers: int) -> None:
        """Vectors are (1 + A + ... + A^L) / (L + 1) times the table."""
        final, own = model(n_layers)()

        expected = dense_powers(n_layers) @ own.detach().numpy()
        assert np.allclose(final.detach().numpy(), expected, atol=1e-6)

    def test_gradients_are_those_of_the_dense_formula(self) -> None:
        """The gradient of a weighted sum of vectors is the transposed operator's."""
        found = model(2)
        weights = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)

        (found()[0] * torch.from_numpy(weights)).sum().backward()

        expected = dense_powers(2).T @ weights
        for table, part in ((found.users, slice(0, 4)), (found.items, slice(4, 9))):
            gradient = table.codebooks[0].grad
            assert gradient is not None
            assert np.allclose(gradient.numpy(), expected[part], atol=1e-6)

    def test_without_layers_it_is_a_factorisation(self) -> None:
        """Scores come from the tables as they are."""
        final, own = model(0)()

        assert torch.equal(final, own)

    def test_tables_must_fit_the_graph(self) -> None:
        """As many users and items as the matrix has."""
        users, items = (
            CodebookTable(RowAssignment.full(n, 3), init_std=1.0, seed=0) for n in (4, 4)
        )
        with pytest.raises(ConfigError, match="tables of equal width"):
            GraphModel(users, items, GRAPH, n_layers=1)
