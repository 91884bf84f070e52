# SPDX-License-Identifier: Apache-2.0
"""The header of a tensor file: what it declares, checked before anything is allocated.

Strict where safetensors leaves room: names are short and occur once, every dimension is
at least 1, and the tensors cover the bytes after the header without hole or overlap.
``docs/format.md`` §3.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketrec.errors import MalformedArtifactError
from pocketrec_quantization.limits import (
    MAX_DIMENSION,
    MAX_PART_BYTES,
    MAX_RANK,
    MAX_TENSOR_HEADER_BYTES,
    MAX_TENSORS,
)

__all__ = [
    "DTYPES",
    "METADATA",
    "MOST_HEAD_BYTES",
    "PREFIX_BYTES",
    "TensorEntry",
    "TensorHeader",
    "read_header",
]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
"""The safetensors types that pocketrec uses."""

METADATA = "__metadata__"
PREFIX_BYTES = 8
"""The header's length comes first, as 64 bits little-endian."""

MOST_HEAD_BYTES = PREFIX_BYTES + MAX_TENSOR_HEADER_BYTES
"""No header ends behind so many bytes of a file."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One declared tensor.

    Attributes:
        dtype: Little-endian type.
        shape: At most 4 lengths, each at least 1.
        begin: Offset in the file of its first byte.
        end: Offset in the file after its last byte.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a tensor file declares.

    Attributes:
        texts: The entries of ``__metadata__``.
        entries: Name to tensor.
    """

    texts: dict[str, str]
    entries: dict[str, TensorEntry]


def read_header(data: bytes, length_bytes: int | None = None) -> TensorHeader:
    """Read and check the header of a tensor file.

    Args:
        data: The whole file, or so much of its start that the header is in it.
        length_bytes: Of the whole file; None = ``data`` is the whole file.

    Raises:
        MalformedArtifactError: The bytes break the layout.
    """
    values, start = _read_json(data)
    texts = _read_metadata(values.pop(METADATA, None))
    _check_names(texts, values)
    entries = {name: _read_entry(name, value, start) for name, value in values.items()}
    _check_cover(entries, start, len(data) if length_bytes is None else length_bytes)
    return TensorHeader(texts, entries)


def _malformed(message: str, field: str, offset: int = PREFIX_BYTES) -> MalformedArtifactError:
    return MalformedArtifactError(message, field=field, offset=offset)


def _read_json(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the JSON object and the offset of the first tensor byte."""
    if not PREFIX_BYTES <= len(data) <= MAX_PART_BYTES:
        raise _malformed(
            f"expected {PREFIX_BYTES}..{MAX_PART_BYTES} bytes, got {len(data)}", "file", 0
        )
    length = int.from_bytes(data[:PREFIX_BYTES], "little")
    most = min(MAX_TENSOR_HEADER_BYTES, len(data) - PREFIX_BYTES)
    if length > most:
        raise _malformed(
            f"{length} bytes are declared, at most {most} can follow", "header_length", 0
        )
    try:
        text = data[PREFIX_BYTES : PREFIX_BYTES + length].decode("ascii")
        values = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"expected ASCII JSON: {str(error)[:200]}", "header") from error
    if not isinstance(values, dict):
        raise _malformed(f"expected a JSON object, got {type(values).__name__}", "header")
    return values, PREFIX_BYTES + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing names that occur twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _read_metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _malformed("expected an object of strings", METADATA)
    return value


def _check_names(texts: dict[str, str], values: dict[str, Any]) -> None:
    if len(values) > MAX_TENSORS:
        raise _malformed(f"expected at most {MAX_TENSORS} tensors, got {len(values)}", "header")
    for name in (*texts, *values):
        if not _NAME.fullmatch(name):
            raise _malformed(
                f"expected names of 1..128 of A-Z a-z 0-9 . _ / -, got {name[:64]!r}", "header"
            )


def _read_entry(name: str, value: object, start: int) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _malformed("expected an object of dtype, shape and data_offsets", name)
    tag, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(tag, str) or tag not in DTYPES:
        raise _malformed(f"dtype: expected one of {sorted(DTYPES)}, got {str(tag)[:64]!r}", name)
    if not _is_integers(shape, range(1, MAX_RANK + 1), range(1, MAX_DIMENSION + 1)):
        raise _malformed(
            f"shape: expected 1..{MAX_RANK} lengths of 1..{MAX_DIMENSION}, got {str(shape)[:64]}",
            name,
        )
    if not _is_integers(offsets, range(2, 3), range(MAX_PART_BYTES + 1)):
        raise _malformed(f"data_offsets: expected [begin, end], got {str(offsets)[:64]}", name)
    dtype, (begin, end) = DTYPES[tag], offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _malformed(f"{tag} of shape {shape} does not take bytes {begin}..{end}", name)
    return TensorEntry(dtype, tuple(shape), start + begin, start + end)


def _is_integers(value: object, lengths: range, allowed: range) -> bool:
    return (
        isinstance(value, list)
        and len(value) in lengths
        and all(type(entry) is int and entry in allowed for entry in value)
    )


def _check_cover(entries: dict[str, TensorEntry], start: int, n_bytes: int) -> None:
    """Refuse holes, overlaps, missing bytes and trailing bytes."""
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        if entry.begin != position:
            raise _malformed(
                f"expected the tensor to start at byte {position}, not {entry.begin}", name
            )
        position = entry.end
    if position != n_bytes:
        raise _malformed(
            f"the tensors end at byte {position}, the file at {n_bytes}",
            "data",
            min(position, n_bytes),
        )
