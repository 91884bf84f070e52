# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec.metrics import (
    bootstrap_mean,
    hit_rate,
    ndcg,
    paired_bootstrap,
    rank_of_target,
)


def rng(seed: int = 0) -> np.random.Generator:
    """Return a source of tie-breaks."""
    return np.random.default_rng(seed)


class TestRankOfTarget:
    def test_ranks_count_what_is_above(self) -> None:
        """The best score has rank 0, the third best rank 2."""
        scores = np.array([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]], np.float32)

        ranks = rank_of_target(scores, np.array([1, 0]), rng())

        assert ranks.tolist() == [0, 2]
        assert ranks.dtype == np.int64

    def test_minus_infinity_is_out_of_the_ranking(self) -> None:
        """A column that is filtered out is never above the target."""
        scores = np.array([[-np.inf, -3.0, -np.inf]], np.float32)

        assert rank_of_target(scores, np.array([1]), rng()).tolist() == [0]

    def test_ties_are_broken_uniformly(self) -> None:
        """Among five equal scores below two better ones every rank from 2 to 6 is as likely."""
        n_rows = 5000
        scores = np.tile(np.array([[7, 1, 1, 1, 1, 1, 9]], np.float32), (n_rows, 1))

        ranks = rank_of_target(scores, np.full(n_rows, 3), rng())

        counts = np.bincount(ranks, minlength=7)
        expected = n_rows / 5
        chi_square = ((counts[2:] - expected) ** 2 / expected).sum()
        assert counts[:2].tolist() == [0, 0]
        assert chi_square < 13.3  # 99 % quantile at 4 degrees of freedom

    def test_a_model_that_ties_everything_is_no_better_than_chance(self) -> None:
        """Constant scores give the middle rank on average, not the first."""
        scores = np.zeros((4000, 101), np.float32)

        ranks = rank_of_target(scores, np.zeros(4000, np.int64), rng())

        assert ranks.mean() == pytest.approx(50, abs=2)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_target_needs_a_finite_score(self, value: float) -> None:
        """The error names the row."""
        scores = np.array([[1, 2], [1, value]], np.float32)

        with pytest.raises(ConfigError, match="row 1 has"):
            rank_of_target(scores, np.array([0, 1]), rng())

    def test_nan_elsewhere_is_refused(self) -> None:
        """A NaN is neither above nor below, so it would flatter the model."""
        with pytest.raises(ConfigError, match="NaN"):
            rank_of_target(np.array([[1, np.nan]], np.float32), np.array([0]), rng())


class TestMetrics:
    def test_hit_rate_looks_at_the_first_k(self) -> None:
        """Rank k - 1 is in, rank k is out."""
        assert hit_rate(np.array([0, 4, 5, 9]), 5).tolist() == [1, 1, 0, 0]

    def test_ndcg_falls_with_the_rank(self) -> None:
        """By hand: 1, 1 / log2(3), 1 / log2(4), and nothing outside."""
        gains = ndcg(np.array([0, 1, 2, 3]), 3)

        assert gains.tolist() == pytest.approx([1, 1 / math.log2(3), 0.5, 0])


class TestBootstrap:
    def test_the_mean_is_that_of_the_values(self) -> None:
        """Resampling decides the interval, never the mean."""
        assert bootstrap_mean(np.array([1.0, 2.0, 6.0])).mean == 3

    def test_equal_values_leave_no_doubt(self) -> None:
        """Without spread the interval is a point."""
        interval = bootstrap_mean(np.full(10, 0.25))

        assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))

    def test_a_seed_gives_one_interval(self) -> None:
        """The same seed gives the same interval, another seed another."""
        values = rng().random(50)

        assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
        assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)

    def test_the_width_is_that_of_theory(self) -> None:
        """For many values it is close to twice 1.96 standard errors."""
        values = rng().random(400)

        interval = bootstrap_mean(values, n_resamples=4000)

        expected = 2 * 1.96 * values.std() / 20
        assert interval.high - interval.low == pytest.approx(expected, rel=0.1)

    def test_intervals_cover_the_truth_about_as_often_as_they_say(self) -> None:
        """Of 200 samples of a known distribution, roughly 95 % of intervals hold its mean."""
        samples = rng(5).random((200, 60))

        intervals = [bootstrap_mean(sample, n_resamples=300) for sample in samples]

        covered = np.mean([interval.low <= 0.5 <= interval.high for interval in intervals])
        assert 0.89 <= covered <= 0.985

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Resampling in pieces gives what resampling at once gives."""
        values = rng().random(30)
        at_once = bootstrap_mean(values)
        monkeypatch.setattr("pocketrec.metrics._CELLS_AT_ONCE", 100)

        in_pieces = bootstrap_mean(values)

        assert in_pieces.low == pytest.approx(at_once.low, rel=1e-12)
        assert in_pieces.high == pytest.approx(at_once.high, rel=1e-12)

    def test_no_values_have_no_mean(self) -> None:
        """An empty test set is an error, not a NaN."""
        with pytest.raises(ConfigError, match="found none"):
            bootstrap_mean(np.array([]))


class TestPairedBootstrap:
    def test_a_small_steady_gain_is_seen(self) -> None:
        """Pairing removes the spread between users: the interval excludes 0."""
        baseline = rng().random(100)

        interval = paired_bootstrap(baseline + 0.01, baseline)

        assert interval.mean == pytest.approx(0.01)
        assert interval.low > 0

    def test_no_difference_is_no_gain(self) -> None:
        """The same values give exactly 0."""
        values = rng().random(10)

        interval = paired_bootstrap(values, values)

        assert (interval.mean, interval.low, interval.high) == (0, 0, 0)

    def test_other_users_cannot_be_paired(self) -> None:
        """Lists of different length are not the same users."""
        with pytest.raises(ConfigError, match="3 and 2"):
            paired_bootstrap(np.ones(3), np.ones(2))
