# SPDX-License-Identifier: Apache-2.0
"""Interactions as pairs of numbers, without time: what graphs of users and items are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, DataError
from pocketrec_cloud.data.lines import decoded_lines

__all__ = ["SPLIT_FRACTIONS", "read_pairs", "split_interactions"]

SPLIT_FRACTIONS = (0.8, 0.1, 0.1)
"""Training, validation and test, where nothing else is said."""

_MOST = 2**31 - 1
_BASE = _MOST + 1


def read_pairs(*paths: str | Path) -> NDArray[np.int32]:
    """Read files of lines ``user item item ...`` whose ids are numbers from 0 on.

    A user may have several lines, in one file or in several: the union counts. A pair that
    occurs twice is kept once.

    Args:
        paths: The files.

    Returns:
        (E, 2) int32, user and item, in ascending order, each pair once.

    Raises:
        DataError: An id is no number from 0 to 2^31 − 1, or there is no pair at all.
        OSError: A file cannot be read.
    """
    parts = [part for path in paths for part in _read_file(Path(path))]
    if not parts:
        raise DataError("expected lines of a user and their items, found none", path=str(paths[0]))
    keys = np.unique(np.concatenate(parts))  # of whole numbers: far faster than of rows
    return np.stack(np.divmod(keys, _BASE), axis=1).astype(np.int32)


def _read_file(path: Path) -> list[NDArray[np.int64]]:
    """Return the pairs of each line, as user · 2^31 + item."""
    parts = []
    for number, line in enumerate(decoded_lines(path), start=1):
        try:
            values = np.array(line.split(), dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise DataError("expected ids that are numbers", path=str(path), line=number) from error
        if values.size and not 0 <= values.min() <= values.max() <= _MOST:
            raise DataError(f"expected ids from 0 to {_MOST}", path=str(path), line=number)
        if values.size > 1:
            parts.append(values[0] * _BASE + values[1:])
    return parts


def split_interactions(
    pairs: NDArray[np.int32], seed: int, fractions: Sequence[float] = SPLIT_FRACTIONS
) -> tuple[NDArray[np.int32], ...]:
    """Split interactions at random, whoever they are of.

    Args:
        pairs: (E, 2) int32, user and item, each pair once.
        seed: Of the random order.
        fractions: Of each part; they add up to 1.

    Returns:
        One (E_part, 2) int32 array per fraction, each in the order of ``pairs``. Every part
        but the last has its fraction of E, rounded down; the last has the rest.

    Raises:
        ConfigError: ``pairs`` has another shape, or the fractions do not add up to 1.

    Source:
        The protocol of BACO (arXiv 2604.18351): 80/10/10, at random over interactions.
    """
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ConfigError(f"pairs: expected (E, 2), got {pairs.shape}")
    if min(fractions, default=0) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(f"fractions: expected positive ones that add up to 1, got {fractions!r}")
    order = np.random.default_rng(seed).permutation(len(pairs))
    sizes = [int(fraction * len(pairs)) for fraction in fractions[:-1]]
    return tuple(pairs[np.sort(part)] for part in np.split(order, np.cumsum(sizes)))
