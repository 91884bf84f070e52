# SPDX-License-Identifier: Apache-2.0
"""Test vectors of an extractor: histories whose user embeddings are known.

Computed by the reference from the bundle's own item rows. ``docs/format.md`` §6.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.checks import read_only, reading
from pocketrec_quantization.limits import MAX_VECTOR_CASES
from pocketrec_quantization.tensors import TensorReader, write_tensors
from pocketrec_quantization.vectors import read_decimal

__all__ = ["EXTRACT_VECTORS_KIND", "ExtractCase", "ExtractVectors"]

EXTRACT_VECTORS_KIND = "pocketrec.extract_vectors"
"""What a part of an extractor's test vectors declares to be."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExtractCase:
    """One history and the user embedding it must lead to.

    Args:
        history: (T,) int32, item indices, oldest first; T >= 1.
        z: (D,) float32, finite.

    Raises:
        ConfigError: Shapes, dtypes or values differ from these.
    """

    history: NDArray[np.int32]
    z: NDArray[np.float32]

    def __post_init__(self) -> None:
        history, z = self.history, self.z
        if history.dtype != np.int32 or history.ndim != 1 or not history.size or history.min() < 0:
            raise ConfigError(
                f"history: expected item indices, int32 of one dimension, got {history.dtype} of "
                f"shape {history.shape}"
            )
        if z.dtype != np.float32 or z.ndim != 1 or not z.size or not np.isfinite(z).all():
            raise ConfigError(f"z: expected finite float32 (D,), got {z.dtype} of {z.shape}")
        object.__setattr__(self, "history", read_only(history))
        object.__setattr__(self, "z", read_only(z))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExtractVectors:
    """Several cases, and how far a runtime may be off.

    Args:
        cases: 1..64 cases of one dimension D.
        tolerance: Largest absolute difference of an entry of z.

    Raises:
        ConfigError: There are too many cases or none, their dimensions differ, or the
            tolerance is no positive number.
    """

    cases: tuple[ExtractCase, ...]
    tolerance: float

    def __post_init__(self) -> None:
        if not 1 <= len(self.cases) <= MAX_VECTOR_CASES:
            raise ConfigError(f"cases: expected 1..{MAX_VECTOR_CASES}, got {len(self.cases)}")
        if len({case.z.shape for case in self.cases}) > 1:
            raise ConfigError("z: expected the same dimension in all cases")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ConfigError(f"tolerance: expected above 0, got {self.tolerance!r}")

    def to_bytes(self) -> bytes:
        """Serialise as a part; equal vectors give equal bytes."""
        tensors: dict[str, NDArray[np.generic]] = {}
        for number, case in enumerate(self.cases):
            tensors[f"history/{number}"] = case.history
            tensors[f"z/{number}"] = case.z
        metadata = {"n_cases": str(len(self.cases)), "tolerance": repr(float(self.tolerance))}
        return write_tensors(tensors, kind=EXTRACT_VECTORS_KIND, metadata=metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> ExtractVectors:
        """Read a part; the arrays are views of ``data``.

        Raises:
            MalformedArtifactError: The bytes are no test vectors of an extractor.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        reader = TensorReader(data, kind=EXTRACT_VECTORS_KIND)
        n_cases = reader.count("n_cases")
        if n_cases > MAX_VECTOR_CASES:
            raise MalformedArtifactError(
                f"expected 1..{MAX_VECTOR_CASES}, got {n_cases}", field="n_cases"
            )
        tolerance = read_decimal("tolerance", reader.text("tolerance"))
        cases = []
        for number in range(n_cases):
            history = reader.take(f"history/{number}", np.int32, (None,))
            z = reader.take(f"z/{number}", np.float32, (None,))
            with reading(f"case {number}"):
                cases.append(ExtractCase(history=history, z=z))
        reader.finish()
        with reading("extract vectors"):
            return cls(cases=tuple(cases), tolerance=tolerance)
