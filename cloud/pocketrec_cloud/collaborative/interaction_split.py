# SPDX-License-Identifier: Apache-2.0
"""Interactions split into train, validation and test, as sparse matrices of users and items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse

from pocketrec.errors import ConfigError
from pocketrec_cloud.data.interactions import read_pairs, split_interactions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["InteractionSplit"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InteractionSplit:
    """Three disjoint sets of interactions.

    Attributes:
        train: (U, V) CSR float32 of ones with sorted columns, as the other two.
        validation: What training is stopped by.
        test: What is reported.

    Raises:
        ConfigError: The three differ in shape, or an interaction is in two of them.
    """

    train: Any
    validation: Any
    test: Any

    def __post_init__(self) -> None:
        """Check that the parts are of one matrix."""
        parts = (self.train, self.validation, self.test)
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            raise ConfigError(f"expected three matrices of one shape, found {sorted(shapes)}")
        union = parts[0] + parts[1] + parts[2]
        if union.nnz != sum(part.nnz for part in parts):
            raise ConfigError("expected every interaction in one part, found some in two")

    @classmethod
    def from_pairs(cls, parts: Sequence[NDArray[np.int32]]) -> Self:
        """Return a split of pairs.

        Args:
            parts: (E, 2) int32 each, user and item: train, validation and test.

        Returns:
            The split, over all users and items up to the largest numbers.

        Raises:
            ConfigError: An interaction is in two parts.
        """
        together = np.concatenate(list(parts))
        shape = tuple(int(n) for n in together.max(axis=0, initial=-1) + 1)
        train, validation, test = (
            sparse.csr_matrix((np.ones(len(part), np.float32), (part[:, 0], part[:, 1])), shape)
            for part in parts
        )
        return cls(train=train, validation=validation, test=test)

    @classmethod
    def read(cls, folder: Path, *, seed: int = 0) -> Self:
        """Read ``train.txt``, ``val.txt`` and ``test.txt``, or split what there is of them.

        Args:
            folder: Where they are; without ``val.txt`` the union of the other two is split
                80/10/10 at random.
            seed: Of that split.

        Returns:
            The split.

        Raises:
            ConfigError: An interaction is in two files of three.
            DataError: A file holds something else than lines of a user and its items.
            OSError: A file is missing.
        """
        paths = [folder / f"{name}.txt" for name in ("train", "val", "test")]
        if paths[1].exists():
            return cls.from_pairs([read_pairs(path) for path in paths])
        return cls.from_pairs(split_interactions(read_pairs(paths[0], paths[2]), seed))

    @property
    def n_users(self) -> int:
        """U."""
        return int(self.train.shape[0])

    @property
    def n_items(self) -> int:
        """V."""
        return int(self.train.shape[1])
