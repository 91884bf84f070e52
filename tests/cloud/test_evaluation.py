# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketrec_cloud import evaluation
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.split import LeaveOneOut, Stage, leave_one_out
from pocketrec_cloud.evaluation import (
    Quality,
    SequenceModel,
    evaluate,
    popularity_scorer,
    rank_all,
)

pytestmark = pytest.mark.usefixtures("one_thread")

N_ITEMS = 300


@dataclass
class FixedScores:
    """Scores every history alike: what is not named scores 0.

    Attributes:
        scores: Item index to score.
        seen: The histories it was asked about.
    """

    scores: Mapping[int, float]
    seen: list[list[int]] = field(default_factory=list)

    def __call__(self, histories: list[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Return (B, V + 1)."""
        self.seen += [history.tolist() for history in histories]
        row = np.zeros(N_ITEMS + 1, np.float32)
        for item, score in self.scores.items():
            row[item] = score
        return np.tile(row, (len(histories), 1))


def split_of(*histories: list[int]) -> LeaveOneOut:
    """Return users with these events."""
    return leave_one_out(SequenceDataset.from_sequences(histories, n_items=N_ITEMS))


class TestEvaluate:
    def test_the_target_is_the_last_event(self) -> None:
        """In the test, everything before the last event is history."""
        scorer = FixedScores({4: 1.0})

        ranks = evaluate(scorer, split_of([1, 2, 3, 4]), stage="test")

        assert scorer.seen == [[1, 2, 3]]
        assert ranks.full.ranks.tolist() == [0]

    def test_validation_hides_the_last_event(self) -> None:
        """In validation the last but one event is the target, and the last is unknown."""
        scorer = FixedScores({3: 1.0, 4: 2.0})

        ranks = evaluate(scorer, split_of([1, 2, 3, 4]), stage="validation")

        assert scorer.seen == [[1, 2]]
        assert ranks.full.ranks.tolist() == [1]

    def test_ranks_are_in_the_order_of_the_users(self) -> None:
        """Batches group by length; the result does not. Who is too short is left out."""
        scorer = FixedScores({10: 3.0, 11: 2.0, 12: 1.0})
        split = split_of([1, 2, 3, 4, 5, 12], [1, 2], [1, 2, 3, 10], [1, 2, 11])

        ranks = evaluate(scorer, split, stage="test")

        assert split.users.tolist() == [0, 2, 3]
        assert ranks.full.ranks.tolist() == [2, 0, 1]

    def test_seen_items_do_not_compete(self) -> None:
        """What the user has met already is out of the ranking, unless asked otherwise."""
        scorer = FixedScores({1: 9.0, 2: 8.0, 3: 7.0, 4: 6.0})
        split = split_of([1, 2, 3, 4])

        filtered = evaluate(scorer, split, stage="test")
        unfiltered = evaluate(scorer, split, stage="test", filter_seen=False)

        assert filtered.full.ranks.tolist() == [0]
        assert unfiltered.full.ranks.tolist() == [3]

    def test_a_repeated_target_stays_in_the_ranking(self) -> None:
        """A user who returns to an item has it ranked, though it was seen."""
        scorer = FixedScores({1: 9.0, 2: 8.0, 5: 7.0, 3: 6.0})

        ranks = evaluate(scorer, split_of([1, 3, 2, 3]), stage="test")

        assert ranks.full.ranks.tolist() == [1]

    def test_padding_never_competes(self) -> None:
        """Column 0 is no item, however it scores."""
        ranks = evaluate(FixedScores({0: 9.0, 4: 1.0}), split_of([1, 2, 3, 4]), stage="test")

        assert ranks.full.ranks.tolist() == [0]
        assert ranks.sampled.ranks.tolist() == [0]

    def test_coarse_scores_do_not_favour_the_target(self) -> None:
        """A model that scores everything alike ranks targets in the middle on average."""
        split = split_of(*([1, 2, 3, 4] for _ in range(600)))

        ranks = evaluate(FixedScores({}), split, stage="test")

        n_others = N_ITEMS - 4
        assert ranks.full.ranks.mean() == pytest.approx(n_others / 2, abs=12)
        assert ranks.sampled.ranks.mean() == pytest.approx(99 / 2, abs=4)

    def test_the_scorers_array_is_left_alone(self) -> None:
        """A scorer may hand out the same array twice."""
        array = np.ones((1, N_ITEMS + 1), np.float32)

        evaluate(lambda _: array, split_of([1, 2, 3, 4]), stage="test")

        assert (array == 1).all()

    @pytest.mark.parametrize("stage", ["validation", "test"])
    def test_rank_all_is_the_full_ranking_alone(self, stage: Stage) -> None:
        """Leaving the sampled protocol out changes no rank, ties included."""
        split = split_of(*([1 + u % 7, 2, 3, 4 + u % 5] for u in range(40)))
        scorer = FixedScores({3: 1.0})

        alone = rank_all(scorer, split, stage=stage, seed=5)

        both = evaluate(scorer, split, stage=stage, seed=5)
        assert np.array_equal(alone.ranks, both.full.ranks)

    def test_a_seed_gives_one_result(self) -> None:
        """Ties and negatives are drawn from the seed."""
        split = split_of(*([1, 2, 3, 4] for _ in range(20)))

        first, again, other = (
            evaluate(FixedScores({}), split, stage="test", seed=seed) for seed in (1, 1, 2)
        )

        assert np.array_equal(first.full.ranks, again.full.ranks)
        assert np.array_equal(first.sampled.ranks, again.sampled.ranks)
        assert not np.array_equal(first.full.ranks, other.full.ranks)

    def test_large_catalogues_go_in_smaller_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The number of scores held at once is bounded, and the ranks stay what they are."""
        monkeypatch.setattr(evaluation, "CELLS_PER_BATCH", 2 * (N_ITEMS + 1))
        sizes = []

        def scorer(histories: list[NDArray[np.int32]]) -> NDArray[np.float32]:
            sizes.append(len(histories))
            return FixedScores({4: 1.0})(histories)

        ranks = evaluate(scorer, split_of(*([1, 2, 3, 4] for _ in range(5))), stage="test")

        assert sizes == [2, 2, 1]
        assert ranks.full.ranks.tolist() == [0] * 5


class TestSampledRanks:
    def test_there_are_99_negatives(self) -> None:
        """A target below everything else is last of 100."""
        ranks = evaluate(FixedScores({4: -1.0}), split_of([1, 2, 3, 4]), stage="test")

        assert ranks.full.ranks.tolist() == [N_ITEMS - 4]
        assert ranks.sampled.ranks.tolist() == [99]

    def test_negatives_are_never_seen_items(self) -> None:
        """If 200 seen items score above the target, they are no negatives all the same."""
        history = list(range(1, 201))
        scorer = FixedScores({**dict.fromkeys(history, 9.0), 250: 1.0})

        ranks = evaluate(scorer, split_of([*history, 250]), stage="test", filter_seen=False)

        assert ranks.full.ranks.tolist() == [200]
        assert ranks.sampled.ranks.tolist() == [0]

    def test_negatives_are_uniform_over_unseen_items(self) -> None:
        """With 148 of 296 unseen items above the target, half of the negatives are."""
        above = dict.fromkeys(range(5, 153), 1.0)
        split = split_of(*([1, 2, 3, 4] for _ in range(300)))

        ranks = evaluate(FixedScores({**above, 4: 0.5}), split, stage="test")

        assert ranks.sampled.ranks.mean() == pytest.approx(99 / 2, abs=1)
        assert ranks.sampled.ranks.std() == pytest.approx(4.06, abs=0.6)  # hypergeometric

    def test_few_unseen_items_are_all_negatives(self) -> None:
        """A catalogue with fewer than 99 unseen items is ranked whole."""
        history = list(range(1, 251))
        scorer = FixedScores({**dict.fromkeys(history, 9.0), 300: -1.0})

        ranks = evaluate(scorer, split_of([*history, 300]), stage="test")

        assert ranks.sampled.ranks.tolist() == ranks.full.ranks.tolist() == [49]


class TestQuality:
    def test_means_are_those_of_the_ranks(self) -> None:
        """By hand: ranks 0, 7 and 20."""
        quality = Quality(ranks=np.array([0, 7, 20]))

        record = quality.as_record()

        assert record["hr@5"] == pytest.approx(1 / 3)
        assert record["hr@10"] == pytest.approx(2 / 3)
        assert record["ndcg@5"] == pytest.approx(1 / 3)
        assert record["ndcg@10"] == pytest.approx((1 + 1 / np.log2(9)) / 3)
        assert quality.mean("ndcg", 10) == record["ndcg@10"]

    def test_the_interval_holds_the_mean(self) -> None:
        """Both are of the same users."""
        interval = Quality(ranks=np.arange(20)).interval("hr", 10)

        assert interval.low < interval.mean == 0.5 < interval.high


class TestPopularityScorer:
    def test_training_events_are_counted(self) -> None:
        """Held-out events tell nothing; users who are not evaluated count whole."""
        scorer = popularity_scorer(split_of([1, 2, 2, 9, 8], [2, 7, 7], [3, 3]))

        scores = scorer([np.array([1], np.int32)] * 2)

        assert scores.shape == (2, N_ITEMS + 1)
        assert scores[0, [1, 2, 3, 7, 8, 9]].tolist() == [1, 3, 2, 0, 0, 0]


class TestSequenceModel:
    @pytest.fixture
    def model(self) -> SASRec:
        """A random backbone with a window of 4."""
        torch.manual_seed(0)
        shape = SASRecConfig(n_items=9, embedding_dim=8, n_heads=2, window=4)
        return SASRec(shape).eval()

    def test_scores_are_inner_products_with_all_items(self, model: SASRec) -> None:
        """Each row is the state after the history times every embedding."""
        histories = [np.array([1, 2, 3], np.int32), np.array([5], np.int32)]

        scores = SequenceModel(model, 4)(histories)

        with torch.inference_mode():
            state = model(torch.tensor([[1, 2, 3]]))[0, -1]
            expected = model.item_embedding.weight @ state
        assert scores.shape == (2, 10)
        np.testing.assert_allclose(scores[0], expected.numpy(), rtol=1e-5, atol=1e-6)

    def test_only_the_window_is_seen(self, model: SASRec) -> None:
        """A longer history counts by its last events."""
        scorer = SequenceModel(model, 4)

        long = scorer([np.array([9, 8, 1, 2, 3, 4], np.int32)])
        short = scorer([np.array([1, 2, 3, 4], np.int32)])

        np.testing.assert_array_equal(long, short)
