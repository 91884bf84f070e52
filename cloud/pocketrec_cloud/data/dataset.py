# SPDX-License-Identifier: Apache-2.0
"""Interactions grouped by user, oldest first, with the map between outer and inner ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["SequenceDataset"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SequenceDataset:
    """Every user's events in the order in which they happened.

    ``item_index`` runs from 1 to V; 0 is padding and stands for "no such item".

    Attributes:
        item_ids: The external id of item index ``i`` is ``item_ids[i - 1]``.
        user_ids: The external id of user ``u``.
        offsets: (U + 1,) int64, where each user's events start in ``items``.
        items: (n_events,) int32, item indices, user by user, oldest first.
    """

    item_ids: tuple[str, ...]
    user_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.offsets.shape != (len(self.user_ids) + 1,):
            raise ConfigError(
                f"expected {len(self.user_ids) + 1} offsets for {len(self.user_ids)} users, "
                f"found {self.offsets.shape[0]}"
            )
        lengths_ok = self.offsets[0] == 0 and self.offsets[-1] == self.items.shape[0]
        if not lengths_ok or np.any(np.diff(self.offsets) < 0):
            raise ConfigError("expected offsets that rise from 0 to the number of events")
        if self.items.size and not 1 <= self.items.min() <= self.items.max() <= self.n_items:
            raise ConfigError(
                f"expected item indices within 1..{self.n_items}, "
                f"found {self.items.min()}..{self.items.max()}"
            )

    @classmethod
    def from_sequences(
        cls, sequences: Iterable[Sequence[int]], *, n_items: int | None = None
    ) -> Self:
        """Build a dataset from lists of item indices; ids become their decimal text.

        Args:
            sequences: One list of item indices (from 1) per user, oldest first.
            n_items: V; the largest index seen when absent.

        Returns:
            A dataset whose item ``i`` is called ``str(i)``.
        """
        rows = [np.asarray(row, dtype=np.int32) for row in sequences]
        items = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
        count = int(items.max(initial=0)) if n_items is None else n_items
        return cls(
            item_ids=tuple(str(i) for i in range(1, count + 1)),
            user_ids=tuple(str(u) for u in range(1, len(rows) + 1)),
            offsets=np.concatenate([[0], np.cumsum([row.size for row in rows])]).astype(np.int64),
            items=items,
        )

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items V, padding not counted."""
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        """Number of interactions."""
        return int(self.items.shape[0])

    def sequence(self, user: int) -> NDArray[np.int32]:
        """Return the events of one user.

        Args:
            user: Position in ``user_ids``.

        Returns:
            (T_u,) int32 view, item indices, oldest first.
        """
        return self.items[self.offsets[user] : self.offsets[user + 1]]
