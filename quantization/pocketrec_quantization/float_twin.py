# SPDX-License-Identifier: Apache-2.0
"""The float model a bundle was made from: the control that every bundle is compared with.

It never ships to devices. Benchmarks run it through the same graphs as the bundle, so
that quality and time differ by the quantization alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import reading
from pocketrec_quantization.tensors import TensorReader, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["FLOAT_TWIN_KIND", "FloatTwin"]

FLOAT_TWIN_KIND = "pocketrec.float"
"""What a float twin's file declares to be."""

_ITEMS = "item_embeddings"
_WEIGHT = "weight/"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatTwin:
    """Float weights and embeddings, in device form.

    Args:
        weights: The coded matrices, ``"<layer>.weight"`` to (C_l, N_l) float32.
        item_embeddings: (V + 1, D) float32, row 0 is padding.

    Raises:
        ConfigError: An array is not a finite float32 matrix.
    """

    weights: Mapping[str, NDArray[np.float32]]
    item_embeddings: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name, array in {**self.weights, _ITEMS: self.item_embeddings}.items():
            if array.dtype != np.float32 or array.ndim != 2 or not np.isfinite(array).all():
                raise ConfigError(
                    f"{name}: expected a finite float32 matrix, got {array.dtype} of {array.shape}"
                )

    @property
    def n_bytes(self) -> int:
        """Bytes of all its arrays."""
        return self.item_embeddings.nbytes + sum(array.nbytes for array in self.weights.values())

    def to_bytes(self) -> bytes:
        """Serialise; equal twins give equal bytes."""
        tensors: dict[str, NDArray[np.generic]] = {_ITEMS: self.item_embeddings}
        tensors |= {f"{_WEIGHT}{name}": array for name, array in self.weights.items()}
        return write_tensors(tensors, kind=FLOAT_TWIN_KIND)

    @classmethod
    def from_bytes(cls, data: bytes) -> FloatTwin:
        """Read a float twin; the arrays are views of ``data``.

        Raises:
            MalformedArtifactError: The bytes are no float twin.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        reader = TensorReader(data, kind=FLOAT_TWIN_KIND)
        weights = {
            name.removeprefix(_WEIGHT): reader.take(name, np.float32, (None, None))
            for name in reader.names()
            if name.startswith(_WEIGHT)
        }
        embeddings = reader.take(_ITEMS, np.float32, (None, None))
        reader.finish()
        with reading("float twin"):
            return cls(weights=weights, item_embeddings=embeddings)
