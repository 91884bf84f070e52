# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.split import leave_one_out


def dataset_of(offsets: list[int], items: list[int]) -> SequenceDataset:
    """Return a dataset of two users and three items."""
    return SequenceDataset(
        item_ids=("a", "b", "c"),
        user_ids=("u", "v"),
        offsets=np.array(offsets, dtype=np.int64),
        items=np.array(items, dtype=np.int32),
    )


class TestSequenceDataset:
    def test_a_sequence_is_a_users_own_events(self) -> None:
        """Offsets cut the events user by user."""
        dataset = dataset_of([0, 2, 5], [1, 2, 3, 3, 1])

        assert dataset.sequence(0).tolist() == [1, 2]
        assert dataset.sequence(1).tolist() == [3, 3, 1]
        assert (dataset.n_users, dataset.n_items, dataset.n_events) == (2, 3, 5)

    def test_lists_become_a_dataset(self) -> None:
        """Item indices given as lists keep their numbers as ids."""
        dataset = SequenceDataset.from_sequences([[2, 1], [], [3]])

        assert dataset.item_ids == ("1", "2", "3")
        assert [dataset.sequence(user).tolist() for user in range(3)] == [[2, 1], [], [3]]

    @pytest.mark.parametrize(
        ("offsets", "items", "reason"),
        [
            ([0, 2], [1, 2], "expected 3 offsets for 2 users, found 2"),
            ([0, 2, 4], [1, 2, 3], "offsets that rise"),
            ([1, 2, 3], [1, 2, 3], "offsets that rise"),
            ([0, 4, 3], [1, 2, 3], "offsets that rise"),
            ([0, 1, 2], [0, 1], r"within 1..3, found 0..1"),
            ([0, 1, 2], [1, 4], r"within 1..3, found 1..4"),
        ],
    )
    def test_impossible_fields_are_refused(
        self, offsets: list[int], items: list[int], reason: str
    ) -> None:
        """Offsets and indices that cannot be true together are refused."""
        with pytest.raises(ConfigError, match=reason):
            dataset_of(offsets, items)


class TestLeaveOneOut:
    def test_the_last_two_events_are_held_out(self) -> None:
        """The last event tests, the one before validates, the others train."""
        split = leave_one_out(SequenceDataset.from_sequences([[1, 2, 3, 4]]))

        assert split.train_sequence(0).tolist() == [1, 2]
        assert (split.history(0, "validation").tolist(), split.target(0, "validation")) == (
            [1, 2],
            3,
        )
        assert (split.history(0, "test").tolist(), split.target(0, "test")) == ([1, 2, 3], 4)

    def test_short_histories_train_but_are_not_evaluated(self) -> None:
        """A user with two events has nothing held out."""
        split = leave_one_out(SequenceDataset.from_sequences([[1, 2], [1, 2, 3]]))

        assert split.users.tolist() == [1]
        assert split.train_sequence(0).tolist() == [1, 2]

    def test_only_short_histories_are_an_error(self) -> None:
        """When nobody can be evaluated, the longest history is named."""
        with pytest.raises(ConfigError, match="the longest history has 2"):
            leave_one_out(SequenceDataset.from_sequences([[1, 2]]))
