# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import ConfigError
from pocketrec_device.ranking import Candidates, Ranking, rank


def ranked(
    items: str,
    scores: list[float] | None,
    k: int = 10,
    *,
    known: list[bool] | None = None,
    server_scores: list[float] | None = None,
    server_weight: float = 0.0,
) -> Ranking:
    """Rank one-letter items."""
    candidates = Candidates.of(
        list(items), server_scores=server_scores, server_weight=server_weight
    )
    if scores is None:
        return rank(candidates, None, None, k)
    return rank(candidates, np.array(scores), np.array(known or [True] * len(scores)), k)


class TestOrder:
    def test_higher_scores_come_first(self) -> None:
        """The best candidate is the first one."""
        assert ranked("abc", [1, 3, 2]) == Ranking(("b", "c", "a"), (3, 2, 1))

    def test_equal_scores_keep_the_order_given(self) -> None:
        """Ties go to the smaller position."""
        assert ranked("abcd", [1, 2, 1, 2]).items == ("b", "d", "a", "c")

    def test_unknown_candidates_come_last_in_the_order_given(self) -> None:
        """What the item table lacks scores minus infinity."""
        ranking = ranked("abcd", [9, 1, 9, 2], known=[False, True, False, True])

        assert ranking.items == ("d", "b", "a", "c")
        assert ranking.scores == (2, 1, -math.inf, -math.inf)

    def test_a_repeated_candidate_counts_once_where_it_stood_first(self) -> None:
        """A ranking never lists an item twice."""
        candidates = Candidates.of(["a", "b", "a"], server_scores=[1, 2, 3], server_weight=1)

        assert candidates.items == ("a", "b")
        assert rank(candidates, np.zeros(2), np.ones(2, bool), 5).scores == (2, 1)

    def test_excluded_candidates_are_left_out(self) -> None:
        """The seen filter removes candidates with their server scores."""
        candidates = Candidates.of(
            ["a", "b", "c"], server_scores=[5, 6, 7], excluded=frozenset("b")
        )

        assert rank(candidates, None, None, 5) == Ranking(("c", "a"), (7, 5))

    @given(st.lists(st.floats(-10, 10), max_size=20), st.integers(1, 25))
    def test_returns_the_k_largest(self, scores: list[float], k: int) -> None:
        """For any scores the result is the head of the sorted list."""
        items = [str(position) for position in range(len(scores))]
        candidates = Candidates.of(items)

        ranking = rank(candidates, np.array(scores), np.ones(len(scores), bool), k)

        order = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
        assert ranking.items == tuple(items[position] for position in order[:k])


class TestSize:
    def test_more_than_there_are_returns_all(self) -> None:
        """A k beyond the candidates is no mistake."""
        assert len(ranked("ab", [1, 2], k=99)) == 2

    def test_no_candidates_give_an_empty_ranking(self) -> None:
        """Nothing to rank is no mistake either."""
        assert ranked("", []) == Ranking((), ())
        assert ranked("", None) == Ranking((), ())

    @pytest.mark.parametrize("k", [0, -1])
    def test_less_than_one_is_refused(self, k: int) -> None:
        """Asking for nothing is a mistake."""
        with pytest.raises(ConfigError, match="k: expected at least 1"):
            ranked("ab", [1, 2], k=k)


class TestServerScores:
    def test_do_not_count_unless_weighted(self) -> None:
        """By default the device's scores decide alone."""
        assert ranked("ab", [1, 2], server_scores=[9, 0]).items == ("b", "a")

    def test_are_added_with_their_weight(self) -> None:
        """The score is device + weight * server."""
        ranking = ranked("ab", [1, 2], server_scores=[9, 0], server_weight=0.5)

        assert ranking == Ranking(("a", "b"), (5.5, 2))

    def test_do_not_lift_unknown_candidates(self) -> None:
        """A candidate the item table lacks stays last."""
        ranking = ranked("ab", [1, 2], known=[False, True], server_scores=[9, 0], server_weight=1)

        assert ranking.items == ("b", "a")

    def test_decide_alone_without_a_history(self) -> None:
        """Before the first event the server's order is the best there is."""
        assert ranked("abc", None, server_scores=[1, 3, 2]) == Ranking(("b", "c", "a"), (3, 2, 1))

    def test_without_them_and_without_a_history_the_order_stays(self) -> None:
        """Nobody has an opinion: the candidates come back as they came."""
        assert ranked("cab", None, k=2) == Ranking(("c", "a"), (0, 0))

    @pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0, 3.0], [1.0, math.nan], [1.0, math.inf]])
    def test_must_be_one_finite_number_each(self, scores: list[float]) -> None:
        """A missing, surplus or unusable score is a mistake."""
        with pytest.raises(ConfigError, match="server_scores"):
            ranked("ab", [1, 2], server_scores=scores)

    def test_a_weight_needs_scores(self) -> None:
        """A weight for scores that are not there is a mistake."""
        with pytest.raises(ConfigError, match="server_weight needs server_scores"):
            ranked("ab", [1, 2], server_weight=1)

    def test_the_weight_is_finite(self) -> None:
        """Infinity times zero is no score."""
        with pytest.raises(ConfigError, match="finite"):
            ranked("ab", [1, 2], server_scores=[1, 2], server_weight=math.inf)


def test_one_string_is_not_a_candidate_list() -> None:
    """A single id instead of a list would be ranked letter by letter."""
    with pytest.raises(ConfigError, match="sequence of item ids"):
        Candidates.of("abc")
