# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec_device.debugging.standings import Catalogue, Standings
from pocketrec_device.debugging.what_if import Users, squared_error
from pocketrec_quantization.cases import EvaluationCases

# Three items on the axes of a plane, and one user who has met the first of them.
EMBEDDINGS = np.array([[0, 0], [9, 9], [1, 0], [0, 1]], np.float32)
RANK_1 = 1 / np.log2(3)


def cases(targets: list[int]) -> EvaluationCases:
    """Users who have met item 1, and what they met next."""
    n_users = len(targets)
    return EvaluationCases(
        items=np.ones(n_users, np.int32),
        offsets=np.arange(n_users + 1),
        targets=np.array(targets, np.int32),
        n_items=3,
    )


class TestCatalogue:
    def test_what_was_met_is_not_ranked_but_the_target_is(self) -> None:
        """Item 1 scores highest everywhere, and counts only for whom it comes next."""
        states = np.array([[2, 1], [2, 1], [2, 1]], np.float32)
        catalogue = Catalogue(cases([2, 3, 1]), EMBEDDINGS)

        standings = catalogue.rank(states, np.arange(3))

        assert standings.ndcg.tolist() == [1, pytest.approx(RANK_1), 1]

    def test_some_users_are_ranked_as_among_all(self) -> None:
        """By their own histories and targets."""
        states = np.array([[2, 1]], np.float32)
        catalogue = Catalogue(cases([2, 3, 1]), EMBEDDINGS)

        assert catalogue.rank(states, np.array([1])).ndcg.tolist() == [pytest.approx(RANK_1)]

    def test_overlap_is_the_share_in_common(self) -> None:
        """Two of four, and all of four."""
        one = Standings(ndcg=np.zeros(2), leaders=np.array([[1, 2, 3, 4], [1, 2, 3, 4]]))
        other = Standings(ndcg=np.zeros(2), leaders=np.array([[3, 4, 5, 6], [1, 2, 3, 4]]))

        assert one.overlap(other).tolist() == [0.5, 1]


class TestUsers:
    @pytest.fixture
    def users(self) -> Users:
        """Eight users on the wrong side of the diagonal under the plan, by different distances."""
        distances = np.arange(1, 9, dtype=np.float32)
        best = np.stack([np.full(8, 10), np.full(8, 5)], axis=1).astype(np.float32)
        planned = best.copy()
        planned[:, 1] = 10 + distances
        return Users(Catalogue(cases([2] * 8), EMBEDDINGS), planned, best)

    def test_nothing_left_is_the_best_plan(self, users: Users) -> None:
        """Every user gains what lies between the second place and the first."""
        change = users.predict(users.best, np.arange(8), 0.0)

        assert users.ndcg.mean == pytest.approx(RANK_1)
        assert change.ndcg.mean == pytest.approx(1 - RANK_1)
        assert change.ndcg == users.measure(users.best).ndcg

    def test_all_left_is_no_change(self, users: Users) -> None:
        """The plan itself."""
        change = users.predict(users.planned, np.arange(8), 1.0)

        assert (change.ndcg.mean, change.ndcg.low, change.ndcg.high) == (0, 0, 0)

    def test_between_it_goes_along_the_line(self, users: Users) -> None:
        """A quarter of the error left is half of the way: users 1 to 5 get across."""
        rows = np.arange(8)
        halfway = (users.planned + users.best) / 2

        change = users.predict(halfway, rows, 0.25)

        # The second coordinate is (15 + distance) / 2, the first 10; at 5 they tie.
        crossed = [distance for distance in range(1, 9) if (15 + distance) / 2 < 10]
        assert len(crossed) == 4
        assert change.ndcg.mean == pytest.approx(users.measure(halfway).ndcg.mean)
        assert 4 / 8 <= change.ndcg.mean / (1 - RANK_1) <= 5 / 8

    def test_a_sample_corrects_a_guess_that_is_wrong(self, users: Users) -> None:
        """The line says that everybody gains; the whole sample says that nobody does."""
        rows = np.arange(6)

        change = users.predict(users.planned[rows], rows, 0.0)

        assert change.ndcg.mean == pytest.approx(0, abs=1e-9)


class TestSquaredError:
    def test_it_is_relative(self) -> None:
        """Off by 1 in one of two numbers: 1 in 3² + 4²."""
        best = np.array([[3, 4]], np.float32)

        assert squared_error(np.array([[3, 5]], np.float32), best) == 1 / 25

    def test_states_of_zeros_have_none(self) -> None:
        """A model may say nothing about a user."""
        assert squared_error(np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)) == 0
