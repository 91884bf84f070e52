# SPDX-License-Identifier: Apache-2.0
"""Test vectors: histories whose scores are known, to prove an installation before use.

The scores are those of the bundle's default plan, computed by the reference executor.
A device runs the cases through its own backend and compares within that backend's
tolerance. ``docs/format.md`` §6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, IncompatibleArtifactError, MalformedArtifactError
from pocketrec_quantization.checks import check_name, read_only, reading
from pocketrec_quantization.limits import MAX_VECTOR_CASES
from pocketrec_quantization.tensors import TensorReader, write_tensors

__all__ = ["VECTORS_KIND", "TestVectors", "VectorCase", "read_decimal"]

VECTORS_KIND = "pocketrec.vectors"
"""What a test vectors part declares to be."""

_TOLERANCE = "tolerance."
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorCase:
    """One history and the scores it must lead to.

    Args:
        history: (T,) int32, item indices, oldest first; T >= 1.
        candidates: (M,) int32, item indices; M >= 1.
        scores: (M,) float32, finite.

    Raises:
        ConfigError: Shapes, dtypes or values differ from these.
    """

    history: NDArray[np.int32]
    candidates: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name, array in (("history", self.history), ("candidates", self.candidates)):
            if array.dtype != np.int32 or array.ndim != 1 or not array.size or array.min() < 0:
                raise ConfigError(
                    f"{name}: expected item indices, int32 of one dimension, got {array.dtype} of "
                    f"shape {array.shape}"
                )
        if self.scores.dtype != np.float32 or self.scores.shape != self.candidates.shape:
            raise ConfigError(
                f"scores: expected float32 of {self.candidates.shape}, got {self.scores.dtype} of "
                f"{self.scores.shape}"
            )
        if not np.isfinite(self.scores).all():
            raise ConfigError("scores: expected finite values")
        for name in ("history", "candidates", "scores"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TestVectors:
    """Several cases, and how far each backend may be off.

    Args:
        cases: 1..64 cases.
        tolerance: Backend name to the largest absolute difference of a score.

    Raises:
        ConfigError: There are too many cases or none, or a tolerance is no positive number.
    """

    __test__: ClassVar[bool] = False  # the name starts with Test, but pytest need not collect it

    cases: tuple[VectorCase, ...]
    tolerance: Mapping[str, float]

    def __post_init__(self) -> None:
        if not 1 <= len(self.cases) <= MAX_VECTOR_CASES:
            raise ConfigError(f"cases: expected 1..{MAX_VECTOR_CASES}, got {len(self.cases)}")
        for backend, value in self.tolerance.items():
            check_name(backend, field="tolerance")
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"tolerance of {backend!r}: expected above 0, got {value!r}")
        object.__setattr__(self, "tolerance", MappingProxyType(dict(self.tolerance)))

    def tolerance_of(self, backend: str) -> float:
        """Return how far a backend's scores may be off.

        Raises:
            IncompatibleArtifactError: The vectors say nothing about this backend.
        """
        if backend not in self.tolerance:
            raise IncompatibleArtifactError(
                f"the test vectors give tolerances for {sorted(self.tolerance)}, not {backend!r}; "
                "use one of these backends"
            )
        return self.tolerance[backend]

    def to_bytes(self) -> bytes:
        """Serialise as a test vectors part; equal vectors give equal bytes."""
        tensors: dict[str, NDArray[np.generic]] = {}
        for number, case in enumerate(self.cases):
            tensors[f"history/{number}"] = case.history
            tensors[f"candidates/{number}"] = case.candidates
            tensors[f"scores/{number}"] = case.scores
        metadata = {f"{_TOLERANCE}{name}": repr(float(t)) for name, t in self.tolerance.items()}
        metadata["n_cases"] = str(len(self.cases))
        return write_tensors(tensors, kind=VECTORS_KIND, metadata=metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> TestVectors:
        """Read a test vectors part; the arrays are views of ``data``.

        Raises:
            MalformedArtifactError: The bytes are no test vectors part.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        reader = TensorReader(data, kind=VECTORS_KIND)
        n_cases = reader.count("n_cases")
        if n_cases > MAX_VECTOR_CASES:
            raise MalformedArtifactError(
                f"expected 1..{MAX_VECTOR_CASES}, got {n_cases}", field="n_cases"
            )
        cases = []
        for number in range(n_cases):
            candidates = reader.take(f"candidates/{number}", np.int32, (None,))
            history = reader.take(f"history/{number}", np.int32, (None,))
            scores = reader.take(f"scores/{number}", np.float32, candidates.shape)
            with reading(f"case {number}"):
                cases.append(VectorCase(history=history, candidates=candidates, scores=scores))
        tolerance = {
            name.removeprefix(_TOLERANCE): read_decimal(name, reader.text(name))
            for name in reader.text_names(_TOLERANCE)
        }
        reader.finish()
        with reading("tolerance"):
            return cls(cases=tuple(cases), tolerance=tolerance)


def read_decimal(key: str, text: str) -> float:
    """Read a number in plain decimal notation, from 0.

    Args:
        key: Its name, for messages.
        text: As it stands in the metadata.

    Raises:
        MalformedArtifactError: It is no such number.
    """
    if len(text) > 32 or not _DECIMAL.fullmatch(text):
        raise MalformedArtifactError(f"expected a decimal number, got {text[:64]!r}", field=key)
    return float(text)
