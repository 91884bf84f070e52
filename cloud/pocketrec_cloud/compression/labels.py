# SPDX-License-Identifier: Apache-2.0
"""Where the groups of items that share a row come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pocketrec_cloud.compression.kmeans import kmeans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["LABEL_SOURCES", "Evidence", "HashLabels", "KMeansLabels", "LabelSource"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What is known of the items.

    Attributes:
        embeddings: (V, D) float32, as they were trained.
        weights: (V,) float64, above 0: how much an item counts.
        sequences: Training events per user, item indices from 1.
    """

    embeddings: NDArray[np.float32]
    weights: NDArray[np.float64]
    sequences: Sequence[NDArray[np.int32]]

    @property
    def n_items(self) -> int:
        """V."""
        return int(self.embeddings.shape[0])


class LabelSource(Protocol):
    """Whoever groups items."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    def labels(self, n_groups: int, evidence: Evidence, *, seed: int) -> NDArray[np.int32]:
        """Return each item's group, (V,) int32 within 0..n_groups - 1."""
        ...


@dataclass(frozen=True, slots=True)
class HashLabels:
    """Groups drawn by chance, of sizes that differ by one at most: the control."""

    name: str = "hash"

    def labels(self, n_groups: int, evidence: Evidence, *, seed: int) -> NDArray[np.int32]:
        """See ``LabelSource``."""
        order = np.random.default_rng(seed).permutation(evidence.n_items)
        groups: NDArray[np.int32] = (order % n_groups).astype(np.int32)
        return groups


@dataclass(frozen=True, slots=True)
class KMeansLabels:
    """Groups of items whose trained embeddings are near each other.

    Attributes:
        n_rounds: Of k-means; groups are many here and rounds dear.
    """

    n_rounds: int = 10
    name: str = "k-means"

    def labels(self, n_groups: int, evidence: Evidence, *, seed: int) -> NDArray[np.int32]:
        """See ``LabelSource``."""
        weights, rounds = evidence.weights, self.n_rounds
        return kmeans(evidence.embeddings, n_groups, weights=weights, n_rounds=rounds, seed=seed)[1]


LABEL_SOURCES: Mapping[str, LabelSource] = {
    source.name: source for source in (HashLabels(), KMeansLabels())
}
"""Who may group items, by name."""
