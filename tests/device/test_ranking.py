# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pocketrec.errors import ConfigError
from pocketrec_device.ranking import Candidates, Ranking, rank, rank_slate
from pocketrec_quantization.item_table import ItemTable


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


class TestLongLists:
    @staticmethod
    def stable(scores: np.ndarray, k: int) -> list[int]:
        """Return where the k best stand, by Python's own stable sort."""
        return sorted(range(len(scores)), key=lambda position: -scores[position])[:k]

    @given(
        arrays(np.float32, st.integers(505, 540), elements=st.sampled_from([-2, -0.5, 0, 0.25, 3])),
        st.integers(1, 560),
    )
    def test_with_ties_equal_a_stable_sort(self, scores: np.ndarray, k: int) -> None:
        """Below and above the length where only the best are sorted, for any k."""
        candidates = Candidates.of([str(position) for position in range(len(scores))])

        ranking = rank(candidates, scores, None, k)

        order = self.stable(scores, k)
        assert ranking.items == tuple(str(position) for position in order)
        assert ranking.scores == tuple(scores[order].tolist())

    @given(st.integers(512, 3000), st.integers(1, 3000), st.integers(0, 2**32 - 1))
    def test_equal_a_stable_sort(self, n_items: int, k: int, seed: int) -> None:
        """So do long lists of scores that seldom tie."""
        scores = np.random.default_rng(seed).standard_normal(n_items).astype(np.float32)
        candidates = Candidates.of([str(position) for position in range(n_items)])

        ranking = rank(candidates, scores, None, k)

        assert ranking.items == tuple(str(position) for position in self.stable(scores, k))

    @pytest.mark.parametrize("k", [1, 599, 600, 601, 699, 700, 701])
    def test_unknown_candidates_come_last(self, k: int) -> None:
        """Where the k best reach into what is unknown, the order given decides."""
        scores = np.arange(700, dtype=np.float32)
        known = np.arange(700) % 7 != 0  # 600 of them
        candidates = Candidates.of([str(position) for position in range(700)])

        ranking = rank(candidates, scores, known, k)

        best = [position for position in range(699, -1, -1) if position % 7]
        expected = [*best, *range(0, 700, 7)][:k]
        assert ranking.items == tuple(map(str, expected))
        assert ranking.scores[600:] == (-math.inf,) * max(0, min(k, 700) - 600)

    def test_server_scores_decide_alone_too(self) -> None:
        """Without a history a long list is ranked by the server's scores, in float64."""
        tiny = np.linspace(1, 1 + 1e-9, 600)
        candidates = Candidates.of([str(n) for n in range(600)], server_scores=tiny.tolist())

        assert rank(candidates, None, None, 3).items == ("599", "598", "597")

    def test_nobodys_opinion_keeps_the_order(self) -> None:
        """600 equal scores are 600 ties."""
        candidates = Candidates.of([str(n) for n in range(600)])

        assert rank(candidates, None, None, 3) == Ranking(("0", "1", "2"), (0, 0, 0))


class Audience:
    """A user who likes each item less the more its neighbours were picked: scores by hand."""

    def __init__(self, scores: list[float], penalty: float = 10.0) -> None:
        self.scores = np.array(scores, np.float32)
        self.penalty = penalty
        self.taken: list[int] = []

    def score(self) -> np.ndarray:
        """Score everything as it is now."""
        return self.scores

    def take_in(self, position: int) -> None:
        """Like the next item less."""
        self.taken.append(position)
        if position + 1 < len(self.scores):
            self.scores[position + 1] -= self.penalty


def slate(
    items: str,
    audience: Audience,
    k: int,
    *,
    known: list[bool] | None = None,
    server_scores: list[float] | None = None,
    server_weight: float = 0.0,
) -> Ranking:
    """Build a slate of one-letter items."""
    return rank_slate(
        Candidates.of(list(items), server_scores=server_scores, server_weight=server_weight),
        None if known is None else np.array(known),
        k,
        score=audience.score,
        take_in=audience.take_in,
    )


class TestSlates:
    def test_later_picks_know_the_earlier_ones(self) -> None:
        """After "a", its neighbour "b" is worth 10 less, so "c" comes second."""
        audience = Audience([5, 4, 3, 1])

        ranking = slate("abcd", audience, 4)

        assert ranking == Ranking(("a", "c", "b", "d"), (5, 3, -6, -9))
        assert audience.taken == [0, 2, 1]

    def test_a_score_is_that_of_the_moment_of_its_pick(self) -> None:
        """Scores may rise from one pick to the next."""
        audience = Audience([5, 4], penalty=-10)

        assert slate("ab", audience, 2) == Ranking(("a", "b"), (5, 14))

    def test_the_last_pick_is_not_taken_in(self) -> None:
        """Nobody is asked for what nobody needs."""
        audience = Audience([1, 2, 3])

        slate("abc", audience, 1)

        assert audience.taken == []

    def test_ties_keep_the_order_given(self) -> None:
        """At every pick the first of equals is taken."""
        assert slate("abc", Audience([1, 1, 1], penalty=0), 3).items == ("a", "b", "c")

    def test_a_pick_is_never_made_twice(self) -> None:
        """A candidate is gone once it is picked, however well it scores."""
        audience = Audience([9, 1, 1], penalty=0)

        assert slate("abc", audience, 9).items == ("a", "b", "c")

    def test_unknown_candidates_come_last_and_are_not_taken_in(self) -> None:
        """Nothing is known of them that could become part of the state."""
        audience = Audience([9, 1, 9, 2])

        ranking = slate("abcd", audience, 4, known=[False, True, False, True])

        assert ranking == Ranking(("d", "b", "a", "c"), (2, 1, -math.inf, -math.inf))
        assert audience.taken == [3, 1]

    def test_server_scores_are_added_at_every_pick(self) -> None:
        """The score is device + weight * server, the device's as it is then."""
        audience = Audience([5, 4, 3])

        ranking = slate("abc", audience, 3, server_scores=[0, 0, 6], server_weight=0.5)

        assert ranking == Ranking(("c", "a", "b"), (6, 5, -6))

    def test_without_an_opinion_the_servers_scores_decide(self) -> None:
        """Without a history the server ranks alone, until a pick makes one."""
        taken: list[int] = []

        ranking = rank_slate(
            Candidates.of(list("abc"), server_scores=[1, 3, 2]),
            None,
            3,
            score=lambda: np.array([7, 8, 9], np.float32) if taken else None,
            take_in=taken.append,
        )

        assert ranking == Ranking(("b", "c", "a"), (3, 9, 7))

    def test_k_beyond_the_list_picks_all(self) -> None:
        """And no candidates make an empty slate."""
        assert len(slate("ab", Audience([1, 2]), 99)) == 2
        assert slate("", Audience([]), 5) == Ranking((), ())

    @pytest.mark.parametrize("k", [0, -1])
    def test_less_than_one_is_refused(self, k: int) -> None:
        """Asking for nothing is a mistake here too."""
        with pytest.raises(ConfigError, match="k: expected at least 1"):
            slate("ab", Audience([1, 2]), k)

    def test_scores_are_left_alone(self) -> None:
        """What the caller scored with is not written to."""
        audience = Audience([3, 2, 1], penalty=0)

        slate("abc", audience, 3)

        assert audience.scores.tolist() == [3, 2, 1]

    @given(st.lists(st.floats(-10, 10, width=32), max_size=12), st.integers(1, 15))
    def test_of_a_user_who_never_changes_are_pointwise(self, scores: list[float], k: int) -> None:
        """If picks change nothing, a slate is the list of the k best."""
        items = [str(position) for position in range(len(scores))]
        audience = Audience(scores, penalty=0)

        found = rank_slate(
            Candidates.of(items), None, k, score=audience.score, take_in=audience.take_in
        )

        assert found == rank(Candidates.of(items), audience.scores, None, k)


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


class TestLookingUp:
    @pytest.fixture
    def table(self) -> ItemTable:
        """Four items, a to d."""
        rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
        return ItemTable.from_embeddings(rows, list("abcd"), 1)

    def test_tells_at_once_what_is_known_and_distinct(self, table: ItemTable) -> None:
        """The usual list is checked by looking it up, and keeps the order given."""
        candidates = Candidates.of(["d", "a", "c"], table=table)

        assert candidates.items == ("d", "a", "c")
        assert candidates.indices is not None
        assert candidates.indices.tolist() == [4, 1, 3]

    @pytest.mark.parametrize("items", [["a", "b", "a"], ["a", "z"], ["a"], []])
    def test_leaves_every_other_list_to_the_rules(self, table: ItemTable, items: list[str]) -> None:
        """Repetitions and unknown items are treated as without a table."""
        candidates = Candidates.of(items, table=table)

        assert candidates.indices is None
        assert candidates.items == Candidates.of(items).items

    def test_leaves_scores_and_exclusions_to_the_rules(self, table: ItemTable) -> None:
        """They need more than a look-up."""
        scored = Candidates.of(["a", "b"], server_scores=[1, 2], table=table)
        without = Candidates.of(["a", "b"], excluded=frozenset("b"), table=table)

        assert scored.indices is None
        assert without.items == ("a",)
        assert without.indices is None
