# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pocketrec.errors import ConfigError
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.split import LeaveOneOut, leave_one_out
from pocketrec_cloud.evaluation import SequenceModel, evaluate
from pocketrec_cloud.planning.contest import Contest

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained


def split_of(*sequences: list[int], n_items: int) -> LeaveOneOut:
    """Return a split of given histories."""
    return leave_one_out(SequenceDataset.from_sequences(sequences, n_items=n_items))


def contest_of(history: list[int], target: int, *, luck: float, n_items: int = 5) -> Contest:
    """Return a contest of one user, whose negatives are items 4 and 5."""
    return Contest(
        histories=(np.array(history, np.int32),),
        targets=np.array([target]),
        negatives=np.array([[4, 5]]),
        luck=np.array([[luck, luck]]),
        n_items=n_items,
    )


def ranks_of(contest: Contest, *scores: float) -> tuple[int, int]:
    """Rank under given scores of items 1 to V; the padding's is the best of all."""
    found = contest.ranks(lambda rows: torch.tensor([[99.0, *scores]])[rows])
    return int(found.full.ranks[0]), int(found.sampled.ranks[0])


class TestRanks:
    def test_by_hand(self) -> None:
        """Items 3 and 5 beat target 2; of these 5 is a negative."""
        assert ranks_of(contest_of([1], 2, luck=0.0), 0.9, 0.5, 0.7, 0.1, 0.6) == (2, 1)

    def test_seen_items_are_out(self) -> None:
        """Item 3 was in the history, so only 5 is above."""
        assert ranks_of(contest_of([1, 3], 2, luck=0.0), 0.9, 0.5, 0.7, 0.1, 0.6) == (1, 1)

    def test_a_target_seen_before_is_in(self) -> None:
        """Whoever comes back to an item can be served it."""
        assert ranks_of(contest_of([2, 1], 2, luck=0.0), 0.9, 0.5, 0.7, 0.1, 0.6) == (2, 1)

    @pytest.mark.parametrize(
        ("luck", "expected"),
        [(0.0, (0, 0)), (0.3, (1, 0)), (0.5, (2, 1)), (0.999, (3, 2))],
    )
    def test_luck_splits_ties(self, luck: float, expected: tuple[int, int]) -> None:
        """Three unseen items tie with the target, two of them negatives."""
        assert ranks_of(contest_of([1], 2, luck=luck), 0.9, 0.5, 0.5, 0.5, 0.5) == expected

    @pytest.mark.parametrize(
        ("item", "number"),
        [(2, float("nan")), (3, float("nan")), (2, float("inf")), (2, float("-inf"))],
    )
    def test_scores_that_are_no_numbers_are_refused(self, item: int, number: float) -> None:
        """NaN is neither above nor below anything: it would rank first."""
        scores = [0.9, 0.5, 0.7, 0.1, 0.6]
        scores[item - 1] = number

        with pytest.raises(ConfigError, match="expected finite scores"):
            ranks_of(contest_of([1], 2, luck=0.0), *scores)

    @pytest.mark.usefixtures("one_thread")
    def test_they_are_those_of_the_evaluation(self, tiny_training: Trained) -> None:
        """Under scores without ties, full ranks agree user by user."""
        split, model = tiny_training.split, tiny_training.result.model
        scorer = SequenceModel(model, model.config.window)
        contest = Contest.of(split, "test")

        def score(rows: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(scorer([contest.histories[row] for row in rows]))

        found = contest.ranks(score)

        expected = evaluate(scorer, split, stage="test").full.ranks
        assert (found.full.ranks == expected).mean() > 0.99  # items never trained on may tie
        assert found.sampled.mean("ndcg", 10) > found.full.mean("ndcg", 10)


class TestDraw:
    @given(
        lengths=st.lists(st.integers(3, 12), min_size=1, max_size=6),
        n_items=st.integers(14, 600),
        seed=st.integers(0, 100),
    )
    def test_negatives_are_fair(self, lengths: list[int], n_items: int, seed: int) -> None:
        """Never seen, never the target, never twice; 99 of them, or all that there are."""
        rng = np.random.default_rng(seed)
        rows = [rng.integers(1, n_items + 1, length).tolist() for length in lengths]
        split = split_of(*rows, n_items=n_items)

        contest = Contest.of(split, "test", seed=seed)

        unseen = min(n_items - len(set(row)) for row in rows)
        assert contest.negatives.shape == (len(rows), min(99, unseen))
        for row, negatives in zip(rows, contest.negatives.tolist(), strict=True):
            assert len(set(negatives)) == len(negatives)
            assert not set(negatives) & set(row)
            assert min(negatives) >= 1
            assert max(negatives) <= n_items

    def test_who_has_seen_everything_leaves_no_negatives(self) -> None:
        """Nothing is made up."""
        contest = Contest.of(split_of([1, 2, 3, 4], n_items=4), "test")

        assert contest.negatives.shape == (1, 0)

    def test_a_seed_gives_one_contest(self, tiny_split: LeaveOneOut) -> None:
        """Users, negatives and luck; another seed gives others."""
        one, two, other = (
            Contest.of(tiny_split, "validation", n_users=40, seed=seed) for seed in (1, 1, 2)
        )

        assert np.array_equal(one.negatives, two.negatives)
        assert np.array_equal(one.luck, two.luck)
        assert np.array_equal(one.targets, two.targets)
        assert not np.array_equal(one.targets, other.targets)
        assert not np.array_equal(one.luck, other.luck)

    def test_stages_have_their_own_targets(self, tiny_split: LeaveOneOut) -> None:
        """The last event but one validates, and the last one tests."""
        validation, test = (Contest.of(tiny_split, stage) for stage in ("validation", "test"))

        for row, user in enumerate(tiny_split.users.tolist()):
            events = tiny_split.dataset.sequence(user)
            assert (validation.targets[row], test.targets[row]) == (events[-2], events[-1])
            assert np.array_equal(validation.histories[row], events[:-2])
            assert np.array_equal(test.histories[row], events[:-1])

    def test_a_sample_is_of_different_users(self, tiny_split: LeaveOneOut) -> None:
        """As many as asked for, or all."""
        sample = Contest.of(tiny_split, "test", n_users=40)
        everybody = Contest.of(tiny_split, "test", n_users=10_000)

        assert len(sample.histories) == len({h.tobytes() for h in sample.histories}) == 40
        assert len(everybody.histories) == tiny_split.users.shape[0]

    def test_two_plans_face_the_same(self, tiny_split: LeaveOneOut) -> None:
        """Ranking changes nothing: equal scores give equal ranks, ties included."""
        contest = Contest.of(tiny_split, "test", n_users=40)

        def coarse(rows: NDArray[np.int64]) -> Tensor:
            items = torch.arange(contest.n_items + 1, dtype=torch.float32)
            return (items // 10).expand(len(rows), -1).clone()

        one, two = contest.ranks(coarse), contest.ranks(coarse)

        assert np.array_equal(one.full.ranks, two.full.ranks)
        assert np.array_equal(one.sampled.ranks, two.sampled.ranks)
