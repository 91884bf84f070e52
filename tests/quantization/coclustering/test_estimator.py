# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from tests.quantization.coclustering.brute_force import (
    dense_objective,
    partitions,
    random_graph,
)

from pocketrec.errors import ConfigError, InfeasibleBudgetError
from pocketrec_quantization.coclustering import CoClustering, SweepReport, objective_of
from pocketrec_quantization.coclustering.weighting import Weighting, WeightScheme

Draw = Callable[..., sparse.csr_array]
METHODS = ["multilevel", "propagation"]
SCHEMES = ["uniform", "degree", "sqrt", "log", "degree_per_node"]


def rows_of(clustering: CoClustering) -> int:
    """Return the rows of both tables."""
    return clustering.n_user_rows_ + clustering.n_item_rows_


class TestFit:
    @pytest.mark.parametrize("method", METHODS)
    def test_groups_without_a_common_interaction_are_found(
        self, method: str, two_groups: sparse.csr_array
    ) -> None:
        """Two separate groups get a row each, on both sides."""
        clustering = CoClustering(resolution=0.5, method=method).fit(two_groups)

        assert clustering.user_labels_.tolist() == [0, 0, 0, 1, 1, 1]
        assert clustering.item_labels_.tolist() == [0, 0, 1, 1]
        assert clustering.objective_ == pytest.approx(12 - 0.5 * (6 * 6 + 6 * 6) / 12)

    @pytest.mark.parametrize("method", METHODS)
    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 20))
    def test_labels_are_rows_and_the_objective_is_theirs(
        self, *, method: str, seed: int, gamma: float
    ) -> None:
        """Rows are numbered without gaps; the objective is what the formula says."""
        rng = np.random.default_rng(seed)
        dense = random_graph(rng, 7, 6)
        matrix = sparse.csr_array(dense)

        found = CoClustering(resolution=gamma, method=method, seed=seed).fit(matrix)

        for labels, n_rows in (
            (found.user_labels_, found.n_user_rows_),
            (found.item_labels_, found.n_item_rows_),
            (np.r_[found.user_labels_, found.secondary_user_labels_], found.n_user_rows_),
            (np.r_[found.item_labels_, found.secondary_item_labels_], found.n_item_rows_),
        ):
            assert labels.dtype == np.int32
            assert set(labels.tolist()) == set(range(n_rows))
        degrees = dense.sum(axis=1), dense.sum(axis=0)
        weights = tuple(Weighting.of(d, WeightScheme.DEGREE).weights(d) for d in degrees)
        labels = np.r_[found.user_clusters_, found.item_clusters_]
        value = dense_objective(dense, (weights[0], weights[1]), labels, gamma)
        assert found.objective_ == pytest.approx(value, abs=1e-5)
        assert objective_of(
            matrix, found.user_clusters_, found.item_clusters_, resolution=gamma
        ) == pytest.approx(value, abs=1e-9)

    @pytest.mark.parametrize("users", SCHEMES)
    @pytest.mark.parametrize("items", SCHEMES)
    def test_every_pair_of_schemes_is_solved(self, users: str, items: str, draw: Draw) -> None:
        """The objective of a fit is that of its schemes, for all schemes of either side."""
        matrix = draw()

        found = CoClustering(resolution=2.0, weights=(users, items)).fit(matrix)

        value = objective_of(
            matrix,
            found.user_clusters_,
            found.item_clusters_,
            resolution=2.0,
            user_weights=users,
            item_weights=items,
        )
        assert found.objective_ == pytest.approx(value, rel=1e-5)
        assert found.objective_ > 0

    def test_tiny_graphs_come_close_to_the_optimum(self) -> None:
        """Of many orders, the best reaches nearly the best of all partitions."""
        shares = []
        for seed in range(8):
            dense = random_graph(np.random.default_rng(seed), 4, 4)
            degrees = dense.sum(axis=1), dense.sum(axis=0)
            users, items = (Weighting.of(d, WeightScheme.DEGREE).weights(d) for d in degrees)
            optimum = max(
                dense_objective(dense, (users, items), labels, 1.5) for labels in partitions(8)
            )
            values = [
                CoClustering(resolution=1.5, tolerance=0, seed=order, n_sweeps=50)
                .fit(sparse.csr_array(dense))
                .objective_
                for order in range(10)
            ]

            assert max(values) <= optimum + 1e-5
            shares.append(max(values) / optimum)

        assert min(shares) > 0.9
        assert sum(share > 1 - 1e-5 for share in shares) >= 6

    def test_levels_find_more_than_single_moves(self, draw: Draw) -> None:
        """On graphs with groups, the objective with levels is higher."""
        gains = []
        for seed in range(5):
            matrix = draw(seed=seed)
            found = {
                method: CoClustering(resolution=1.5, method=method, n_sweeps=20).fit(matrix)
                for method in METHODS
            }
            gains.append(found["multilevel"].objective_ - found["propagation"].objective_)

        assert min(gains) >= 0
        assert max(gains) > 1

    def test_the_seed_decides(self, draw: Draw) -> None:
        """The same seed gives the same rows; orders depend on the seed."""
        matrix = draw(seed=3)
        first, again, *others = (
            CoClustering(resolution=3, seed=seed).fit(matrix) for seed in (1, 1, 2, 3, 4)
        )

        np.testing.assert_array_equal(first.user_labels_, again.user_labels_)
        np.testing.assert_array_equal(first.item_labels_, again.item_labels_)
        assert any((first.user_labels_ != other.user_labels_).any() for other in others)

    def test_progress_tells_of_every_sweep(self, draw: Draw) -> None:
        """One report per sweep, of the resolution that is tried."""
        reports: list[SweepReport] = []

        found = CoClustering(resolution=2, progress=reports.append).fit(draw())

        assert len(reports) == found.n_sweeps_
        assert {report.resolution for report in reports} == {2}
        assert reports[0].n_nodes == 100

    def test_values_count_where_that_is_asked_for(self) -> None:
        """A user with two items joins the one with the larger value."""
        matrix = sparse.csr_array(np.array([[1.0, 5.0], [1.0, 0.0], [0.0, 1.0]]))

        found = CoClustering(resolution=1, weights="uniform", is_weighted=True).fit(matrix)

        assert found.user_clusters_[0] == found.item_clusters_[1]

    def test_nothing_can_be_asked_before_fit(self, two_groups: sparse.csr_array) -> None:
        """Calls out of order are errors of the program."""
        clustering = CoClustering(n_rows=4)

        for call in (clustering.assign_users, clustering.assign_items, clustering.update):
            with pytest.raises(RuntimeError, match="call fit first"):
                call(two_groups)


class TestIsolated:
    matrix = sparse.csr_array(
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    )

    def test_they_share_one_row(self) -> None:
        """Users and items without interactions share the last row of their side."""
        found = CoClustering(resolution=0.1).fit(self.matrix)

        assert found.user_labels_.tolist() == [0, 0, 1, 1]
        assert found.item_labels_.tolist() == [0, 0, 1, 1]
        assert (found.n_user_rows_, found.default_user_row_) == (2, 1)
        assert found.user_clusters_.tolist() == [0, 0, -1, -1]
        assert found.secondary_user_labels_.tolist() == [0, 0, 1, 1]

    def test_they_may_have_rows_of_their_own(self) -> None:
        """As published, each has a row; the default row is then the most common one."""
        found = CoClustering(resolution=0.1, isolated="own").fit(self.matrix)

        assert found.user_labels_.tolist() == [0, 0, 1, 2]
        assert (found.n_item_rows_, found.default_item_row_) == (3, 0)


class TestBudget:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("n_rows", [12, 30, 60, 100])
    def test_rows_never_exceed_their_budget(self, method: str, n_rows: int, draw: Draw) -> None:
        """Whatever the graph, both tables together have at most the rows asked for."""
        counts = [
            rows_of(CoClustering(n_rows=n_rows, method=method).fit(draw(seed=seed)))
            for seed in range(4)
        ]

        assert max(counts) <= n_rows
        assert max(counts) >= 0.8 * n_rows

    def test_bytes_are_counted_with_row_numbers(self, draw: Draw) -> None:
        """60 users and 40 items with two row numbers each leave the rest for rows."""
        found = CoClustering(n_bytes=3_000, row_bytes=64).fit(draw())

        assert rows_of(found) * 64 + 2 * 2 * 100 <= 3_000
        assert rows_of(found) >= 30

    def test_one_side_may_be_counted_alone(self, draw: Draw) -> None:
        """Where only items are stored, only their rows are limited."""
        found = CoClustering(n_rows=20, counted="items").fit(draw())

        assert 15 <= found.n_item_rows_ <= 20

    def test_a_budget_below_the_minimum_is_refused(self, two_groups: sparse.csr_array) -> None:
        """Two groups that share nothing need two rows a side."""
        with pytest.raises(InfeasibleBudgetError, match="at least 4") as caught:
            CoClustering(n_rows=3).fit(two_groups)

        assert caught.value.minimum_bytes == 4

    def test_a_budget_for_everybody_is_not_refused(self, two_groups: sparse.csr_array) -> None:
        """With more rows than nodes, everybody may have their own."""
        found = CoClustering(n_rows=99).fit(two_groups)

        assert rows_of(found) == 10


class TestOptions:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"n_rows": 3, "resolution": 1},
            {"n_rows": 0},
            {"n_rows": 2.5},
            {"n_rows": float("inf")},
            {"n_rows": "3"},
            {"n_bytes": -1},
            {"n_bytes": True},
            {"resolution": -1},
            {"resolution": float("nan")},
            {"resolution": 1, "tolerance": 1},
            {"resolution": 1, "n_sweeps": 0},
            {"resolution": 1, "block_nodes": 0},
            {"resolution": 1, "stop_rows": 0, "method": "propagation"},
            {"resolution": 1, "stop_rows": 3},
            {"resolution": 1, "seed": -1},
            {"resolution": 1, "weights": 5},
            {"resolution": 1, "method": "annealing"},
            {"resolution": 1, "weights": "cubic"},
            {"resolution": 1, "weights": ("degree",)},
            {"resolution": 1, "secondary": "some"},
            {"resolution": 1, "counted": "none"},
            {"resolution": 1, "isolated": "lost"},
        ],
        ids=str,
    )
    def test_impossible_options_are_refused_at_once(self, fields: dict[str, object]) -> None:
        """What cannot be meant is an error before any data is seen."""
        with pytest.raises(ConfigError, match="expected"):
            CoClustering(**fields)


class TestPaper:
    def test_its_objective_has_the_published_weights(self, draw: Draw) -> None:
        """Items weigh d / sqrt(V), users d / sqrt(E)."""
        matrix = draw()

        found = CoClustering.paper(resolution=0.5).fit(matrix)

        assert found.n_sweeps_ == 5
        assert found.objective_ == pytest.approx(
            objective_of(
                matrix,
                found.user_clusters_,
                found.item_clusters_,
                resolution=0.5,
                item_weights="degree_per_node",
            ),
            rel=1e-5,
        )

    def test_it_stops_at_its_budget(self, draw: Draw) -> None:
        """Sweeps end as soon as there are few enough rows."""
        matrix = draw()
        counts = {
            sweeps: rows_of(CoClustering.paper(resolution=0.5, stop_rows=sweeps).fit(matrix))
            for sweeps in (1, 80)
        }
        n_sweeps = CoClustering.paper(resolution=0.5, stop_rows=80).fit(matrix).n_sweeps_

        assert counts[1] <= counts[80] <= 80
        assert n_sweeps < 5

    def test_items_have_one_row(self, draw: Draw) -> None:
        """Second rows are of users only."""
        found = CoClustering.paper(resolution=1.0).fit(draw())

        np.testing.assert_array_equal(found.secondary_item_labels_, found.item_labels_)
        assert (found.secondary_user_labels_ != found.user_labels_).any()


class TestObjectiveOf:
    def test_shapes_must_match(self, two_groups: sparse.csr_array) -> None:
        """There is one co-cluster per user and item."""
        with pytest.raises(ConfigError, match="one per row and column"):
            objective_of(two_groups, np.zeros(6, int), np.zeros(5, int), resolution=1)

    def test_who_has_no_cluster_counts_nothing(self, two_groups: sparse.csr_array) -> None:
        """Labels below 0 are no co-cluster."""
        nobody = np.full(6, -1), np.full(4, -1)

        assert objective_of(two_groups, *nobody, resolution=1) == 0

    def test_any_numbers_name_co_clusters(self, two_groups: sparse.csr_array) -> None:
        """Hashes do as well as consecutive numbers."""
        users, items = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1])
        expected = objective_of(two_groups, users, items, resolution=1)
        names = np.array([2**40, 5], np.int64)

        found = objective_of(two_groups, names[users], names[items], resolution=1)

        assert found == pytest.approx(expected)

    def test_fractions_are_no_co_clusters(self, two_groups: sparse.csr_array) -> None:
        """They would be cut off to the same number."""
        with pytest.raises(ConfigError, match="expected integers"):
            objective_of(two_groups, np.zeros(6, int), np.full(4, 0.5), resolution=1)

    def test_no_interaction_has_no_objective(self) -> None:
        """Weights have no norm then."""
        with pytest.raises(ConfigError, match="at least one interaction"):
            objective_of(sparse.csr_array((2, 3)), np.zeros(2, int), np.zeros(3, int), resolution=1)
