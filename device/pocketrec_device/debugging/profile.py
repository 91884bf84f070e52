# SPDX-License-Identifier: Apache-2.0
"""What the time of a call goes into, operator by operator, as a library's own tracer has it.

Tracing costs time of its own, more per operator than a small one takes: shares tell where to
look, and ``bench run`` tells how long a call takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PROFILE_SCHEMA",
    "FunctionProfile",
    "OperatorTime",
    "Profile",
    "ProfileOptions",
    "summarise_operators",
]

PROFILE_SCHEMA = "pocketrec.profile/1"
"""What a file of ``debug profile`` declares to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """How to profile.

    Args:
        compute: As ``EngineSettings.compute``; read by ONNX Runtime only.
        threads: Threads per call.
        n_warmup: Calls that do not count.
        n_runs: Calls that do.

    Raises:
        ConfigError: A count is too small.
    """

    compute: str = "auto"
    threads: int = 1
    n_warmup: int = 20
    n_runs: int = 200

    def __post_init__(self) -> None:
        if min(self.threads, self.n_runs) < 1 or self.n_warmup < 0:
            raise ConfigError(f"expected counts of at least 1, found {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """One operator of a function.

    Attributes:
        operator: Its type, such as ``"Gemm"``.
        node: What it computes: a layer, several side by side, or a value of the graph.
        p50_us: Median time per call; ONNX Runtime tells whole microseconds.
        trimmed_us: Mean time per call over the middle 80 % of calls.
        share: Of the trimmed time of all operators of the function.
    """

    operator: str
    node: str
    p50_us: float
    trimmed_us: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionProfile:
    """One function.

    Attributes:
        function: ``"step"`` or ``"history"``.
        n_calls: Calls that were counted.
        call_us: Median time of a whole call, tracing included; None where it is not told.
        operators: In the order of computation.
    """

    function: str
    n_calls: int
    call_us: float | None
    operators: tuple[OperatorTime, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """All functions that a backend called.

    Attributes:
        backend: Its name.
        version: Of its library.
        tracer: What traced.
        threads: Threads per call.
        functions: One per function.
    """

    backend: str
    version: str
    tracer: str
    threads: int
    functions: tuple[FunctionProfile, ...]


def summarise_operators(
    times_us: Sequence[tuple[str, str, Sequence[float]]],
) -> tuple[OperatorTime, ...]:
    """Return operators with their times summarised.

    Args:
        times_us: Operator, node, and the microseconds of every call that counts.
    """
    kept = [np.sort(np.array(times, np.float64)) for _, _, times in times_us]
    trimmed = [_middle(times) for times in kept]
    total = sum(trimmed)
    return tuple(
        OperatorTime(
            operator=operator,
            node=node,
            p50_us=float(np.median(times)),
            trimmed_us=middle,
            share=middle / total if total else 0.0,
        )
        for (operator, node, _), times, middle in zip(times_us, kept, trimmed, strict=True)
    )


def _middle(times: NDArray[np.float64]) -> float:
    """Return the mean of the middle 80 % of sorted times."""
    n_cut = len(times) // 10
    return float(times[n_cut : len(times) - n_cut].mean())
