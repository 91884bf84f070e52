# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from tests.quantization.coclustering.brute_force import random_graph

from pocketrec.errors import ConfigError
from pocketrec_quantization.coclustering import CoClustering

Draw = Callable[..., sparse.csr_array]


class TestSecondRows:
    @pytest.mark.parametrize("side", ["users", "items"])
    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 8))
    def test_they_are_the_best_of_the_others(self, *, side: str, seed: int, gamma: float) -> None:
        """Of neighbours' co-clusters with a row on one's side, the best but one's own."""
        dense = random_graph(np.random.default_rng(seed), 6, 6)
        found = CoClustering(resolution=gamma, seed=seed).fit(sparse.csr_array(dense))
        ours, theirs = found.user_clusters_, found.item_clusters_
        rows, second = found.user_labels_, found.secondary_user_labels_
        if side == "items":
            dense, ours, theirs = dense.T, theirs, ours
            rows, second = found.item_labels_, found.secondary_item_labels_
        degrees, n_edges = dense.sum(axis=1), dense.sum()
        row_of = {int(cluster): int(row) for cluster, row in zip(ours, rows, strict=True)}
        volume = {
            int(c): dense.sum(axis=0)[theirs == c].sum() / np.sqrt(n_edges)
            for c in {*ours.tolist(), *theirs.tolist()}
        }
        for node in np.flatnonzero(degrees):
            scores = {
                c: dense[node][theirs == c].sum()
                - gamma * degrees[node] / np.sqrt(n_edges) * volume[c]
                for c in set(theirs[dense[node] > 0].tolist())
                if c in row_of and c != ours[node]
            }
            if not scores:
                assert second[node] == rows[node]
            else:
                taken = next(c for c in scores if row_of[c] == second[node])
                assert scores[taken] >= max(scores.values()) - 1e-6

    def test_a_side_that_is_not_wanted_keeps_its_rows(self, draw: Draw) -> None:
        """Without second rows, the second is the first."""
        found = CoClustering(resolution=2, secondary="none").fit(draw())

        np.testing.assert_array_equal(found.secondary_user_labels_, found.user_labels_)
        np.testing.assert_array_equal(found.secondary_item_labels_, found.item_labels_)


class TestAssign:
    def test_newcomers_join_those_they_are_like(self, two_groups: sparse.csr_array) -> None:
        """A few events are enough to find the group, and its row."""
        found = CoClustering(resolution=0.5).fit(two_groups)
        users = sparse.csr_array(np.array([[0, 0, 1, 0], [1, 1, 1, 0]], np.float32))
        items = sparse.csr_array(np.array([[0, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1]]).T)

        assert found.assign_users(users).tolist() == [1, 0]
        assert found.assign_items(items).tolist() == [1, 0]

    def test_without_events_the_default_row_is_given(self, two_groups: sparse.csr_array) -> None:
        """Nothing known means the row that most have, where no row is kept for that."""
        uneven = sparse.csr_array(two_groups.toarray()[1:])
        found = CoClustering(resolution=0.5).fit(uneven)

        rows = found.assign_users(sparse.csr_array((2, 4)))

        assert found.user_labels_.tolist() == [0, 0, 1, 1, 1]
        assert rows.tolist() == [found.default_user_row_] * 2 == [1, 1]

    def test_who_was_there_gets_their_row_again(self, draw: Draw) -> None:
        """Where a fit has converged, assigning its own users changes almost nothing."""
        matrix = draw(n_groups=3)
        found = CoClustering(resolution=1.0, tolerance=0, n_sweeps=50).fit(matrix)

        assert np.mean(found.assign_users(matrix) == found.user_labels_) > 0.95
        assert np.mean(found.assign_items(matrix) == found.item_labels_) > 0.95

    def test_other_items_than_those_of_the_fit_are_refused(
        self, two_groups: sparse.csr_array
    ) -> None:
        """The known side must be the one that was fitted."""
        found = CoClustering(resolution=1).fit(two_groups)

        with pytest.raises(ConfigError, match="expected 4 columns"):
            found.assign_users(sparse.csr_array((1, 5)))
        with pytest.raises(ConfigError, match="expected 6 rows, the users"):
            found.assign_items(sparse.csr_array((5, 1)))
        with pytest.raises(ConfigError, match="sparse matrix"):
            found.assign_users(np.ones((1, 4)))


class TestUpdate:
    def test_who_had_a_row_keeps_it(self, draw: Draw) -> None:
        """Old users and items keep both rows; numbers of rows stay."""
        later = draw(n_users=80, n_items=50, n_groups=3)
        assert later[:60, :40].sum(axis=1).min() > 0
        found = CoClustering(resolution=2).fit(later[:60, :40])
        before = {
            name: getattr(found, name).copy()
            for name in (
                "user_labels_",
                "item_labels_",
                "secondary_user_labels_",
                "secondary_item_labels_",
            )
        }
        counts = found.n_user_rows_, found.n_item_rows_

        found.update(later)

        for name, labels in before.items():
            np.testing.assert_array_equal(getattr(found, name)[: labels.size], labels)
        assert (found.n_user_rows_, found.n_item_rows_) == counts
        assert found.user_labels_.shape == found.secondary_user_labels_.shape == (80,)
        assert found.item_labels_.max() < counts[1]

    def test_newcomers_join_through_newcomers(self, two_groups: sparse.csr_array) -> None:
        """A new user who only knows a new item follows that item's other users."""
        found = CoClustering(resolution=0.5).fit(two_groups)
        later = np.zeros((8, 5), np.float32)
        later[:6, :4] = two_groups.toarray()
        later[[3, 4, 6], 4] = 1  # a new item, of the second group and of a new user

        found.update(sparse.csr_array(later))

        assert found.item_labels_.tolist() == [0, 0, 1, 1, 1]
        assert found.user_labels_.tolist() == [0, 0, 0, 1, 1, 1, 1, found.default_user_row_]

    def test_the_isolated_join_once_they_interact(self) -> None:
        """Who had no interaction leaves the shared row with the first one."""
        early = np.array([[1, 1], [1, 1], [0, 0]], np.float32)
        found = CoClustering(resolution=0.1).fit(sparse.csr_array(early))
        assert found.user_labels_.tolist() == [0, 0, 1]

        found.update(sparse.csr_array(np.array([[1, 1], [1, 1], [0, 1]], np.float32)))

        assert found.user_labels_.tolist() == [0, 0, 0]
        assert found.objective_ == pytest.approx(5 - 0.1 * 5 * 5 / 5)

    def test_strangers_among_themselves_get_the_default_row(
        self, two_groups: sparse.csr_array
    ) -> None:
        """New users and items that only know each other have no co-cluster yet."""
        found = CoClustering(resolution=0.5).fit(two_groups)
        later = np.zeros((7, 5), np.float32)
        later[:6, :4] = two_groups.toarray()
        later[6, 4] = 1

        found.update(sparse.csr_array(later))

        assert found.user_clusters_[6] == found.item_clusters_[4] == -1
        assert found.user_labels_[6] == found.default_user_row_
        assert found.objective_ == pytest.approx(12 - 0.5 * 2 * 36 / 13)

    def test_a_smaller_graph_is_refused(self, two_groups: sparse.csr_array) -> None:
        """Users of before cannot be missing."""
        found = CoClustering(resolution=0.5).fit(two_groups)

        with pytest.raises(ConfigError, match="at least"):
            found.update(two_groups[:5])
