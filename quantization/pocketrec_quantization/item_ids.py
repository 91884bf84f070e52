# SPDX-License-Identifier: Apache-2.0
"""External item ids: which are allowed, and how a part holds them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.limits import MAX_ITEM_ID_BYTES, MAX_ITEMS

__all__ = ["decode_ids", "encode_ids", "index_ids"]


def index_ids(item_ids: Sequence[str]) -> dict[str, int]:
    """Return id to item index, from 1.

    Args:
        item_ids: V distinct ids of 1 to 256 UTF-8 bytes; V is 1 to 2**24.

    Raises:
        ConfigError: An id is not allowed or occurs twice, or there are too few or too many.
    """
    if not 1 <= len(item_ids) <= MAX_ITEMS:
        raise ConfigError(f"item_ids: expected 1..{MAX_ITEMS} ids, got {len(item_ids)}")
    for item_id in item_ids:
        if not 1 <= _utf8_length(item_id) <= MAX_ITEM_ID_BYTES:
            raise ConfigError(
                f"item_ids: expected 1..{MAX_ITEM_ID_BYTES} UTF-8 bytes, got {item_id!r:.80}"
            )
    index_of = {item_id: index for index, item_id in enumerate(item_ids, start=1)}
    if len(index_of) != len(item_ids):
        raise ConfigError("item_ids: an id occurs twice")
    return index_of


def encode_ids(item_ids: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all ids one after the other, and where they begin.

    Returns:
        UTF-8 bytes, uint8; and (V + 1,) int64, from 0 to their number.
    """
    encoded = [item_id.encode() for item_id in item_ids]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(item_id) for item_id in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def decode_ids(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the ids that ``encode_ids`` wrote.

    Raises:
        MalformedArtifactError: There are too many, the offsets do not rise from 0 to the
            blob's length, or an id is too long or no UTF-8.
    """
    # Before any id becomes an object: that takes many times the bytes of the file.
    if len(offsets) > MAX_ITEMS + 1:
        raise MalformedArtifactError(
            f"expected 1..{MAX_ITEMS} ids, got {len(offsets) - 1}", field="id_offsets"
        )
    if offsets[0] != 0 or offsets[-1] != blob.size or (offsets[1:] <= offsets[:-1]).any():
        raise MalformedArtifactError(f"expected to rise from 0 to {blob.size}", field="id_offsets")
    if np.diff(offsets).max() > MAX_ITEM_ID_BYTES:
        raise MalformedArtifactError(
            f"expected ids of 1..{MAX_ITEM_ID_BYTES} UTF-8 bytes", field="id_bytes"
        )
    text = blob.tobytes()
    bounds = offsets.tolist()
    try:
        pairs = itertools.pairwise(bounds)
        return tuple(text[begin:end].decode() for begin, end in pairs)
    except UnicodeDecodeError as error:
        raise MalformedArtifactError("expected UTF-8", field="id_bytes") from error


def _utf8_length(text: str) -> int:
    """Count UTF-8 bytes; 0 for text that UTF-8 cannot express (lone surrogates)."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return 0
