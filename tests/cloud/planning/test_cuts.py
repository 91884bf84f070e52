# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketrec_cloud.planning.cuts import CutBatch, cut_batches, cut_history

LENGTHS = (0, 1, 2, 3, 5, 9, 9, 30, 4, 2, 17, 12)


def sequences() -> list[NDArray[np.int32]]:
    """Histories in which an item tells whose it is and when it came: 100 u + t + 1."""
    return [
        np.arange(1, n + 1, dtype=np.int32) + np.int32(100 * user) for user, n in enumerate(LENGTHS)
    ]


def batches(seed: int = 0, **changes: int) -> list[CutBatch]:
    """Cut them."""
    settings = {"window": 6, "extract_window": 4, "n_targets": 3, "tokens_per_batch": 24} | changes
    rng = np.random.default_rng(seed)
    return list(cut_batches(sequences(), **settings, rng=rng))


class TestCutHistory:
    def test_by_hand(self) -> None:
        """Events 1 to 8, three before the cut, four read, two predicted."""
        inputs, targets = cut_history(np.arange(1, 9, dtype=np.int32), 3, window=4, n_targets=2)

        assert inputs.tolist() == [1, 2, 3, 4]
        assert targets.tolist() == [0, 0, 4, 5]

    @given(
        n_events=st.integers(2, 60),
        cut=st.integers(1, 59),
        window=st.integers(1, 30),
        n_targets=st.integers(1, 30),
    )
    def test_nothing_before_the_cut_is_predicted(
        self, n_events: int, cut: int, window: int, n_targets: int
    ) -> None:
        """What is predicted starts at the cut, goes on without a gap, and follows its input."""
        cut = min(cut, n_events - 1)
        events = np.arange(1, n_events + 1, dtype=np.int32)

        inputs, targets = cut_history(events, cut, window=window, n_targets=n_targets)

        assert inputs.shape == targets.shape
        assert inputs.shape[0] <= window
        predicted = targets[targets > 0]
        assert predicted.tolist() == list(range(cut + 1, cut + 1 + predicted.size))
        assert predicted.size == min(n_targets, window, n_events - cut)
        assert (inputs[targets > 0] + 1 == predicted).all()

    def test_the_history_is_left_alone(self) -> None:
        """Targets are a copy."""
        events = np.arange(1, 9, dtype=np.int32)
        cut_history(events, 5, window=8, n_targets=2)

        assert events.tolist() == list(range(1, 9))


class TestCutBatches:
    def test_every_history_with_two_events_comes_once(self) -> None:
        """Shorter ones have nothing to predict from."""
        users = [
            int(batch.past[row, 0] - 1) // 100
            for batch in batches()
            for row in range(len(batch.past))
        ]

        assert Counter(users) == Counter(u for u, n in enumerate(LENGTHS) if n >= 2)

    @given(
        seed=st.integers(0, 1000),
        window=st.integers(1, 12),
        extract_window=st.integers(1, 12),
        n_targets=st.integers(1, 12),
    )
    def test_no_plan_sees_what_it_is_judged_by(
        self, seed: int, window: int, extract_window: int, n_targets: int
    ) -> None:
        """The past ends right before the first target, user by user, and lengths are bounded."""
        settings = {"window": window, "extract_window": extract_window, "n_targets": n_targets}
        for batch in batches(seed, **settings):
            assert batch.inputs.shape == batch.targets.shape
            assert batch.inputs.shape[1] <= window
            assert batch.past.shape[1] <= extract_window
            for past, length, inputs, targets in zip(
                batch.past, batch.past_lengths, batch.inputs, batch.targets, strict=True
            ):
                known, predicted = past[:length], targets[targets > 0]
                assert (past[length:] == 0).all()
                assert (known > 0).all()
                assert predicted[0] == known[-1] + 1
                assert known.max() < predicted.min()
                assert torch.equal(inputs[targets > 0] + 1, predicted)

    def test_batches_keep_their_size(self) -> None:
        """Users times longest history, of either kind."""
        for batch in batches(tokens_per_batch=24):
            longest = max(batch.past.shape[1], batch.inputs.shape[1])
            assert len(batch.past) * longest <= 24

    def test_cuts_come_from_the_generator(self) -> None:
        """Equal seeds cut alike, others elsewhere."""
        one, two, other = (
            [(b.past.tolist(), b.targets.tolist()) for b in batches(seed)] for seed in (4, 4, 5)
        )

        assert one == two != other

    def test_a_batch_moves_as_a_whole(self) -> None:
        """All four tensors."""
        moved = batches()[0].to(torch.device("meta"))

        assert {
            t.device.type for t in (moved.past, moved.past_lengths, moved.inputs, moved.targets)
        } == {"meta"}
