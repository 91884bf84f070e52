# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketrec_cloud.batches import bucket_by_length, pad, training_batches, training_windows

lengths = st.lists(st.integers(1, 40), max_size=60)
bounds = st.integers(1, 120)
generators = st.none() | st.integers(0, 2**32).map(np.random.default_rng)


def events(*histories: list[int]) -> list[NDArray[np.int32]]:
    """Return histories as arrays."""
    return [np.array(history, np.int32) for history in histories]


class TestPad:
    def test_zeros_follow_the_end(self) -> None:
        """Shorter rows are filled up behind their last event."""
        padded = pad(events([5, 6, 7], [8]))

        assert padded.tolist() == [[5, 6, 7], [8, 0, 0]]


class TestBucketByLength:
    @given(lengths, bounds, generators)
    def test_every_row_is_in_one_batch(
        self, lengths: list[int], bound: int, rng: np.random.Generator | None
    ) -> None:
        """No row is lost, none comes twice, no batch is empty."""
        batches = bucket_by_length(np.array(lengths, np.int64), bound, rng)

        assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
        assert all(batch.size for batch in batches)

    @given(lengths, bounds, generators)
    def test_batches_stay_within_the_bound(
        self, lengths: list[int], bound: int, rng: np.random.Generator | None
    ) -> None:
        """Rows times longest row is bounded, but for a single row that is longer itself."""
        batches = bucket_by_length(np.array(lengths, np.int64), bound, rng)

        for batch in batches:
            longest = max(lengths[row] for row in batch)
            assert batch.size == 1 or batch.size * longest <= bound

    @given(lengths, bounds)
    def test_batches_are_as_full_as_they_can_be(self, lengths: list[int], bound: int) -> None:
        """In order of length, the first row of a batch did not fit the batch before."""
        batches = bucket_by_length(np.array(lengths, np.int64), bound)

        for batch, after in pairwise(batches):
            assert (batch.size + 1) * lengths[after[0]] > bound

    def test_without_a_source_of_chance_the_order_is_that_of_the_file(self) -> None:
        """Evaluation visits equal lengths in the order in which they came."""
        batches = bucket_by_length(np.array([3, 1, 3, 1]), 6)

        assert [batch.tolist() for batch in batches] == [[1, 3], [0, 2]]

    def test_a_seed_gives_one_order(self) -> None:
        """Shuffled batches are the same for the same seed, and others for another."""
        orders = [
            [
                batch.tolist()
                for batch in bucket_by_length(np.ones(30, np.int64), 4, np.random.default_rng(seed))
            ]
            for seed in (1, 1, 2)
        ]

        assert orders[0] == orders[1] != orders[2]


class TestTrainingWindows:
    @given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 12), st.integers(0, 99))
    def test_stretches_are_cut_from_histories(
        self, sizes: list[int], window: int, seed: int
    ) -> None:
        """Each is a stretch of its history, of at least 2 events and as long as it may be."""
        sequences = [np.arange(1, size + 1, dtype=np.int32) for size in sizes]

        cut = training_windows(sequences, window, np.random.default_rng(seed))

        expected = [min(size, window + 1) for size in sizes if size >= 2]
        assert [stretch.shape[0] for stretch in cut] == expected
        for stretch in cut:
            assert (np.diff(stretch) == 1).all()

    def test_every_place_of_a_long_history_is_reached(self) -> None:
        """Over the epochs a long history is trained on from its first event to its last."""
        sequences, rng = events([1, 2, 3, 4, 5, 6]), np.random.default_rng(0)

        starts = {int(training_windows(sequences, 3, rng)[0][0]) for _ in range(60)}

        assert starts == {1, 2, 3}


class TestTrainingBatches:
    def test_targets_are_the_next_events(self) -> None:
        """Where there is an input, the target is what followed it; elsewhere both are 0."""
        sequences = events([1, 2, 3], [7, 8], [9])

        ((inputs, targets),) = training_batches(
            sequences, window=5, tokens_per_batch=100, rng=np.random.default_rng(0)
        )

        rows = sorted(zip(inputs.tolist(), targets.tolist(), strict=True))
        assert rows == [([1, 2], [2, 3]), ([7, 0], [8, 0])]

    def test_nobody_to_learn_from_gives_no_batches(self) -> None:
        """Users of one event have nothing to predict."""
        batches = training_batches(
            events([1], []), window=5, tokens_per_batch=100, rng=np.random.default_rng(0)
        )

        assert list(batches) == []
