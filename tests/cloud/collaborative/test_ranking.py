# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from tests.cloud.collaborative.graphs import matrix

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative import ranking
from pocketrec_cloud.collaborative.ranking import RelevantRanks, rank_relevant

ONE_USER = np.ones((1, 1), np.float32)


def scores(*values: float) -> np.ndarray:
    """Return items whose scores for ``ONE_USER`` are these."""
    return np.array(values, np.float32)[:, None]


class TestRanks:
    def test_seen_items_are_not_ranked(self) -> None:
        """Item 0 scores highest but was seen: item 1 is first, item 3 third."""
        found = rank_relevant(
            ONE_USER,
            scores(9, 8, 7, 6, 5),
            matrix([(0, 1), (0, 3)], (1, 5)),
            matrix([(0, 0)], (1, 5)),
        )

        assert found.ranks.tolist() == [0, 2]

    def test_equal_scores_are_one_random_order(self) -> None:
        """Places of equal items are all different, and depend on the seed alone."""
        everything = matrix([(0, item) for item in range(50)], (1, 50))
        nothing = matrix([], (1, 50))

        first, again, other = (
            rank_relevant(ONE_USER, scores(*[1.0] * 50), everything, nothing, seed=seed).ranks
            for seed in (0, 0, 1)
        )

        assert sorted(first) == list(range(50))
        assert first.tolist() == again.tolist() != other.tolist()

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ranks are those of an argsort, however few users are scored at once."""
        rng = np.random.default_rng(0)
        users, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (20, 30))
        seen = matrix([(u, u) for u in range(20)], (20, 30))
        relevant = matrix([(u, i) for u in range(0, 20, 2) for i in (25, 26, 29)], (20, 30))
        monkeypatch.setattr(ranking, "_CELLS_PER_BLOCK", 90)

        found = rank_relevant(users, items, relevant, seen)

        table = users @ items.T
        table[seen.nonzero()] = -np.inf
        places = np.argsort(np.argsort(-table, axis=1), axis=1)
        assert found.users.tolist() == relevant.nonzero()[0].tolist()
        assert found.ranks.tolist() == places[relevant.nonzero()].tolist()

    def test_a_relevant_item_that_was_seen_is_refused(self) -> None:
        """It could never be found."""
        both = matrix([(0, 1)], (1, 3))
        with pytest.raises(ConfigError, match="found some in both"):
            rank_relevant(ONE_USER, scores(1, 2, 3), both, both)

    def test_scores_that_are_no_numbers_are_refused(self) -> None:
        """NaN would rank below everything."""
        with pytest.raises(ConfigError, match="finite"):
            rank_relevant(
                ONE_USER, scores(1, math.nan), matrix([(0, 0)], (1, 2)), matrix([], (1, 2))
            )


class TestMetrics:
    FOUND = RelevantRanks(users=np.array([1, 1, 1, 3]), ranks=np.array([0, 2, 9, 1]), n_users=5)

    def test_recall_is_hits_over_what_a_list_can_hold(self) -> None:
        """Of user 1's three items a list of 2 holds one, of at most two; user 3's is in it."""
        assert self.FOUND.evaluated.tolist() == [1, 3]
        assert self.FOUND.recall(2).tolist() == [0.5, 1.0]
        assert self.FOUND.recall(3).tolist() == pytest.approx([2 / 3, 1.0])
        assert self.FOUND.recall(10).tolist() == [1.0, 1.0]

    def test_ndcg_is_the_gain_over_the_best_lists(self) -> None:
        """Places 1 and 3 of user 1 against places 1, 2 and 3; place 2 of user 3 against 1."""
        gain = 1 + 1 / math.log2(4)
        best = 1 + 1 / math.log2(3) + 1 / math.log2(4)

        assert self.FOUND.ndcg(3).tolist() == pytest.approx([gain / best, 1 / math.log2(3)])

    def test_the_best_list_is_no_longer_than_k(self) -> None:
        """With k = 1 the first place is all there is to gain."""
        assert self.FOUND.ndcg(1).tolist() == [1.0, 0.0]
