# SPDX-License-Identifier: Apache-2.0
"""Times of single calls: kept compactly, and summarised.

A result file holds them as text, whole nanoseconds with a space between two, in the order
in which they were measured: a tenth of the lines that a list takes, and any language
reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PERCENTILES", "decode_samples", "encode_samples", "summarise", "thin"]

PERCENTILES = (50, 90, 95, 99)
"""Of calls, in summaries."""


def encode_samples(samples_ns: NDArray[np.int64]) -> str:
    """Return samples as text.

    Args:
        samples_ns: (n,) int64, nanoseconds.
    """
    return " ".join(map(str, samples_ns.tolist()))


def decode_samples(text: str) -> NDArray[np.int64]:
    """Return what ``encode_samples`` wrote, (n,) int64 nanoseconds.

    Raises:
        ConfigError: The text holds something else.
    """
    try:
        return np.array([int(word) for word in text.split()], np.int64)
    except (ValueError, OverflowError) as exc:
        raise ConfigError(f"samples_ns: expected whole numbers and spaces, {exc}") from exc


def thin(samples_ns: NDArray[np.int64], n_kept: int) -> NDArray[np.int64]:
    """Return at most ``n_kept`` samples, evenly spread over the time of measurement.

    Args:
        samples_ns: (n,) int64, nanoseconds, as measured.
        n_kept: How many at most, from 1.
    """
    if samples_ns.size <= n_kept:
        return samples_ns
    return samples_ns[np.linspace(0, samples_ns.size - 1, n_kept).round().astype(np.intp)]


def summarise(samples_ns: NDArray[np.int64]) -> dict[str, float]:
    """Return percentiles, extremes, mean and deviation in microseconds, and ``n``.

    Args:
        samples_ns: (n,) int64, nanoseconds, at least one.
    """
    samples_us = samples_ns / 1e3
    percentiles = np.percentile(samples_us, PERCENTILES)
    return {
        **{f"p{p}": float(value) for p, value in zip(PERCENTILES, percentiles, strict=True)},
        "min": float(samples_us.min()),
        "max": float(samples_us.max()),
        "mean": float(samples_us.mean()),
        "std": float(samples_us.std()),
        "n": int(samples_us.size),
    }
