# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out: every user's last event is the test target, the one before validates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.data.dataset import SequenceDataset

__all__ = ["MIN_EVENTS", "LeaveOneOut", "Stage", "leave_one_out"]

MIN_EVENTS = 3
"""Fewer events leave nothing to train on once both targets are held out."""

Stage = Literal["validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeaveOneOut:
    """A dataset with its last two events per user held out.

    Attributes:
        dataset: All events. Users with fewer than ``MIN_EVENTS`` train but are not evaluated.
        users: (U_eval,) int64, the users that are evaluated.
    """

    dataset: SequenceDataset
    users: NDArray[np.int64]

    def train_sequence(self, user: int) -> NDArray[np.int32]:
        """Return what training may see of one user, oldest first: (T_u - 2,) int32.

        A user who is not evaluated has nothing held out and trains whole.
        """
        events = self.dataset.sequence(user)
        return events[:-2] if events.shape[0] >= MIN_EVENTS else events

    def train_sequences(self) -> list[NDArray[np.int32]]:
        """Return what training may see of every user, oldest first."""
        return [self.train_sequence(user) for user in range(self.dataset.n_users)]

    def history(self, user: int, stage: Stage) -> NDArray[np.int32]:
        """Return the events before the target of ``stage``, oldest first."""
        events = self.dataset.sequence(user)
        return events[:-2] if stage == "validation" else events[:-1]

    def target(self, user: int, stage: Stage) -> int:
        """Return the held-out item index of ``stage``."""
        return int(self.dataset.sequence(user)[-2 if stage == "validation" else -1])


def leave_one_out(dataset: SequenceDataset) -> LeaveOneOut:
    """Hold out every user's last two events.

    Args:
        dataset: Events in order of time.

    Returns:
        The split.

    Raises:
        ConfigError: No user has ``MIN_EVENTS`` events.

    Source:
        The protocol of SASRec (Kang and McAuley 2018, section IV.A).
    """
    lengths = np.diff(dataset.offsets)
    users = np.flatnonzero(lengths >= MIN_EVENTS)
    if users.size == 0:
        raise ConfigError(
            f"expected a user with at least {MIN_EVENTS} events, "
            f"the longest history has {int(lengths.max(initial=0))}: give more data"
        )
    return LeaveOneOut(dataset=dataset, users=users)
