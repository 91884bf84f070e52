# SPDX-License-Identifier: Apache-2.0
"""Evaluation cases: held-out histories and targets, so that a device can measure quality.

They hold people's interactions, so they are never part of a bundle. ``docs/format.md`` §8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec_quantization.checks import read_only, reading
from pocketrec_quantization.tensors import TensorReader, write_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CASES_KIND", "EvaluationCases"]

CASES_KIND = "pocketrec.cases"
"""What a file of evaluation cases declares to be."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationCases:
    """Histories with the item that came next.

    Args:
        items: (n_events,) int32, item indices of all histories, one after the other,
            oldest first.
        offsets: (n_cases + 1,) int64, where each history starts; none is empty.
        targets: (n_cases,) int32, the item index that came next.
        n_items: V, items of the catalogue.

    Raises:
        ConfigError: The arrays do not fit together.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    n_items: int

    def __post_init__(self) -> None:
        n_cases = self.targets.shape[0]
        if n_cases == 0 or self.offsets.shape != (n_cases + 1,):
            raise ConfigError(
                f"offsets: expected one more than the {n_cases} targets, got {self.offsets.shape}"
            )
        covers = self.offsets[0] == 0 and self.offsets[-1] == self.items.shape[0]
        # Compared, not subtracted: a difference of hostile offsets could wrap around.
        if not covers or (self.offsets[:-1] >= self.offsets[1:]).any():
            raise ConfigError("offsets: expected to rise from 0 to the number of events")
        for name, array in (("items", self.items), ("targets", self.targets)):
            if array.dtype != np.int32 or array.min() < 1 or array.max() > self.n_items:
                raise ConfigError(
                    f"{name}: expected item indices within 1..{self.n_items}, int32, "
                    f"got {array.dtype} of {array.min()}..{array.max()}"
                )
        for name in ("items", "offsets", "targets"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def n_cases(self) -> int:
        """How many histories there are."""
        return int(self.targets.shape[0])

    def history(self, case: int) -> NDArray[np.int32]:
        """Return one history, (T,) int32, oldest event first."""
        return self.items[self.offsets[case] : self.offsets[case + 1]]

    def check_catalogue(self, n_items: int, name: object = "cases") -> None:
        """Refuse cases of another catalogue, whose item indices would mean other items.

        Args:
            n_items: V of the bundle.
            name: What messages call the cases.

        Raises:
            IncompatibleArtifactError: They are over another number of items.
        """
        if self.n_items != n_items:
            raise IncompatibleArtifactError(
                f"{name}: expected cases over the bundle's {n_items} items, found {self.n_items}; "
                "build both from the same data"
            )

    def to_bytes(self) -> bytes:
        """Serialise; equal cases give equal bytes."""
        tensors: dict[str, NDArray[np.generic]] = {
            "items": self.items,
            "offsets": self.offsets,
            "targets": self.targets,
            "n_items": np.array([self.n_items], np.int64),
        }
        return write_tensors(tensors, kind=CASES_KIND)

    @classmethod
    def from_bytes(cls, data: bytes) -> EvaluationCases:
        """Read evaluation cases; the arrays are views of ``data``.

        Raises:
            MalformedArtifactError: The bytes are no evaluation cases.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        reader = TensorReader(data, kind=CASES_KIND)
        items = reader.take("items", np.int32, (None,))
        offsets = reader.take("offsets", np.int64, (None,))
        targets = reader.take("targets", np.int32, (None,))
        n_items = int(reader.take("n_items", np.int64, (1,))[0])
        reader.finish()
        with reading("cases"):
            return cls(items=items, offsets=offsets, targets=targets, n_items=n_items)
