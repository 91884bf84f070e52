# SPDX-License-Identifier: Apache-2.0
"""Turns columns of text and numbers into events, all rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pocketrec_cloud.data.events import EventTable
from pocketrec_quantization.limits import MAX_ITEM_ID_BYTES

__all__ = ["encode_events", "encode_ids", "is_too_long"]


def encode_events(users: Any, items: Any, times: Any = None) -> EventTable:
    """Give every distinct id a position, and every time a number.

    Args:
        users: (n_events,) Arrow column of text.
        items: (n_events,) Arrow column of text.
        times: (n_events,) Arrow column of text or numbers; None where there are none.

    Raises:
        ValueError: An id is empty, an item's id is too long, or a time is not finite
            (``pa.ArrowInvalid``, a ValueError too, where it is no number).
    """
    user_ids, user_positions = encode_ids(users)
    item_ids, item_positions = encode_ids(items)
    if "" in user_ids or "" in item_ids:
        raise ValueError("an id is empty")
    if any(is_too_long(item_id) for item_id in item_ids):
        raise ValueError("an item's id is too long")
    return EventTable(
        user_ids=user_ids,
        item_ids=item_ids,
        users=user_positions,
        items=item_positions,
        times=None if times is None else _numbers(times),
    )


def is_too_long(item_id: str) -> bool:
    """Whether no item table could hold an id."""
    return len(item_id.encode()) > MAX_ITEM_ID_BYTES


def encode_ids(column: Any) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the distinct texts of a column, and every row's position among them.

    Args:
        column: (n,) Arrow column of text without nulls.

    Returns:
        The texts in order of first appearance; (n,) int64 positions.
    """
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries()
        if not encoded.num_chunks:
            return (), np.zeros(0, dtype=np.int64)
        positions = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
        dictionary = encoded.chunk(0).dictionary
    else:
        positions, dictionary = encoded.indices.to_numpy(), encoded.dictionary
    return tuple(dictionary.to_pylist()), positions.astype(np.int64)


def _numbers(times: Any) -> NDArray[np.int64] | NDArray[np.float64]:
    if pa.types.is_integer(times.type):
        return np.asarray(pc.cast(times, pa.int64()).to_numpy(), dtype=np.int64)
    floats = pc.cast(times, pa.float64()).to_numpy()
    if not np.isfinite(floats).all():
        raise ValueError("a time is not finite")
    try:  # whole numbers stay exact, as nanoseconds need
        return np.asarray(pc.cast(times, pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid:
        return np.asarray(floats, dtype=np.float64)
