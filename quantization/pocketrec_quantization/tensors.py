# SPDX-License-Identifier: Apache-2.0
"""Named arrays in one file: the safetensors layout, written one way and read strictly.

The layout is safetensors (any safetensors library reads these files). What the library
leaves open is decided here, because parts are named by their digest: equal tensors give
equal bytes, every byte of a file belongs to a tensor or to the header, a name occurs
once, and every error says which field is wrong and where. Arrays are views of the
bytes, so reading a part does not copy its weights. ``docs/format.md`` §3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.checks import check_major
from pocketrec_quantization.limits import (
    MAX_DIMENSION,
    MAX_PART_BYTES,
    MAX_RANK,
    MAX_TENSOR_HEADER_BYTES,
    MAX_TENSORS,
)

__all__ = ["TENSORS_VERSION", "TensorReader", "write_tensors"]

TENSORS_VERSION = (1, 0)
"""Major and minor version of every tensor file this release writes."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_TAGS = {dtype: tag for tag, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_PREFIX_BYTES = 8  # the header length, little-endian
_ALIGNMENT = 8
_VERSION = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(
    tensors: Mapping[str, NDArray[Any]], *, kind: str, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Serialise named arrays; equal arguments give equal bytes.

    Args:
        tensors: Name to array of float64, float32, int64, int32, uint16, int8 or uint8.
        kind: What the file is, such as ``pocketrec.frozen``.
        metadata: Further header entries.

    Returns:
        The file: header length, JSON header padded to 8 bytes, arrays from the widest
        type to the narrowest and by name within a type.

    Raises:
        ConfigError: A dtype is not in the list above.
    """
    version = f"{TENSORS_VERSION[0]}.{TENSORS_VERSION[1]}"
    texts = {**(metadata or {}), "format": kind, "version": version}
    header: dict[str, object] = {_METADATA: dict(sorted(texts.items()))}
    arrays = {name: _little_endian(name, array) for name, array in tensors.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    offset = 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _TAGS[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    length = len(text).to_bytes(_PREFIX_BYTES, "little")
    return b"".join([length, text, *(arrays[name].tobytes() for name in order)])


def _little_endian(name: str, array: NDArray[Any]) -> NDArray[Any]:
    little = array.dtype.newbyteorder("<")
    if little not in _TAGS:
        raise ConfigError(f"tensor {name!r}: expected one of {sorted(_DTYPES)}, got {array.dtype}")
    return array.astype(little, copy=False)


class TensorReader:
    """Hands out the tensors of one file, each checked against what is expected of it.

    Call :meth:`take` for every tensor, then :meth:`finish`: a file of a known version
    that holds anything else is refused.

    Args:
        data: The whole file.
        kind: The kind it must declare.

    Raises:
        MalformedArtifactError: The bytes break the layout.
        IncompatibleArtifactError: The kind's major version is unknown.
    """

    def __init__(self, data: bytes, *, kind: str) -> None:
        self._data = data
        self._kind = kind
        header, self._start = _read_header(data)
        self._texts = _read_metadata(header.pop(_METADATA, None))
        self._check_kind()
        self._minor = self._read_version()
        self._entries = _read_entries(header, len(data) - self._start, self._start)

    def names(self) -> tuple[str, ...]:
        """Return the names of the tensors not yet taken, sorted."""
        return tuple(sorted(self._entries))

    def texts(self) -> dict[str, str]:
        """Return the header entries beyond ``format`` and ``version``."""
        return {key: self._texts[key] for key in self._texts if key not in {"format", "version"}}

    def text(self, key: str) -> str:
        """Return one header entry.

        Raises:
            MalformedArtifactError: It is absent.
        """
        if key not in self._texts:
            raise MalformedArtifactError(
                f"expected the entry {key!r}, found {sorted(self._texts)}",
                field=_METADATA,
                offset=_PREFIX_BYTES,
            )
        return self._texts[key]

    def take(
        self, name: str, dtype: type[Any], shape: tuple[int | None, ...] | None
    ) -> NDArray[Any]:
        """Return one tensor as a read-only view of the file.

        Args:
            name: Its name.
            dtype: The NumPy scalar type it must have.
            shape: The shape it must have; a length of None matches any, a shape of None every one.

        Raises:
            MalformedArtifactError: It is absent, taken already, or of another type or shape.
        """
        entry = self._entries.pop(name, None)
        if entry is None:
            raise MalformedArtifactError("expected this tensor, found none", field=name)
        offset = self._start + entry.begin
        expected = np.dtype(dtype)
        if entry.dtype != expected.newbyteorder("<") or not _fits(entry.shape, shape):
            raise MalformedArtifactError(
                f"expected {expected} of {shape}, got {entry.dtype} of {entry.shape}",
                field=name,
                offset=offset,
            )
        count = math.prod(entry.shape)
        array = np.frombuffer(self._data, entry.dtype, count, offset).reshape(entry.shape)
        return array.astype(expected, copy=False)

    def finish(self) -> None:
        """Refuse tensors nobody took, unless a newer minor version may have added them.

        Raises:
            MalformedArtifactError: There are some.
        """
        if self._entries and self._minor <= TENSORS_VERSION[1]:
            name = min(self._entries)
            offset = self._start + self._entries[name].begin
            raise MalformedArtifactError("unexpected tensor", field=name, offset=offset)

    def _check_kind(self) -> None:
        if self.text("format") != self._kind:
            raise MalformedArtifactError(
                f"expected a {self._kind!r} file, got {self._texts['format'][:64]!r}",
                field="format",
                offset=_PREFIX_BYTES,
            )

    def _read_version(self) -> int:
        match = _VERSION.fullmatch(self.text("version"))
        if match is None:
            raise MalformedArtifactError(
                f"expected MAJOR.MINOR, got {self._texts['version'][:64]!r}",
                field="version",
                offset=_PREFIX_BYTES,
            )
        found = (int(match[1]), int(match[2]))
        check_major(found, TENSORS_VERSION, what=f"a {self._kind} file")
        return found[1]


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the JSON header and the offset of the first tensor byte."""
    if not _PREFIX_BYTES <= len(data) <= MAX_PART_BYTES:
        raise MalformedArtifactError(
            f"expected {_PREFIX_BYTES}..{MAX_PART_BYTES} bytes, got {len(data)}",
            field="header_length",
            offset=0,
        )
    length = int.from_bytes(data[:_PREFIX_BYTES], "little")
    limit = min(MAX_TENSOR_HEADER_BYTES, len(data) - _PREFIX_BYTES)
    if not 2 <= length <= limit:
        raise MalformedArtifactError(
            f"expected a header of 2..{limit} bytes, {length} are declared",
            field="header_length",
            offset=0,
        )
    text = data[_PREFIX_BYTES : _PREFIX_BYTES + length]
    try:
        header = json.loads(text.decode("ascii"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedArtifactError(
            f"expected ASCII JSON: {str(error)[:200]}", field="header", offset=_PREFIX_BYTES
        ) from error
    if not isinstance(header, dict):
        raise MalformedArtifactError(
            f"expected a JSON object, got {type(header).__name__}",
            field="header",
            offset=_PREFIX_BYTES,
        )
    return header, _PREFIX_BYTES + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing names that occur twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _read_metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise MalformedArtifactError(
            "expected an object of strings", field=_METADATA, offset=_PREFIX_BYTES
        )
    return value


def _read_entries(header: dict[str, Any], n_bytes: int, start: int) -> dict[str, _Entry]:
    """Check every tensor's declaration, and that together they cover the bytes once."""
    if len(header) > MAX_TENSORS:
        raise MalformedArtifactError(
            f"expected at most {MAX_TENSORS} tensors, got {len(header)}",
            field="header",
            offset=_PREFIX_BYTES,
        )
    entries = {name: _read_entry(name, value) for name, value in header.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        if entry.begin != position:
            raise MalformedArtifactError(
                f"expected data at {position} (no holes, no overlap), got {entry.begin}",
                field=name,
                offset=start + position,
            )
        position = entry.end
    if position != n_bytes:
        raise MalformedArtifactError(
            f"the tensors cover {position} bytes, but {n_bytes} follow the header",
            field="data",
            offset=start + min(position, n_bytes),
        )
    return entries


def _read_entry(name: str, value: object) -> _Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise MalformedArtifactError(
            "expected an object of dtype, shape and data_offsets", field=name, offset=_PREFIX_BYTES
        )
    tag, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(tag, str) or tag not in _DTYPES:
        raise MalformedArtifactError(
            f"dtype: expected one of {sorted(_DTYPES)}, got {str(tag)[:64]!r}",
            field=name,
            offset=_PREFIX_BYTES,
        )
    if not _is_integers(shape, MAX_RANK, 1, MAX_DIMENSION) or not shape:
        raise MalformedArtifactError(
            f"shape: expected 1..{MAX_RANK} lengths of 1..{MAX_DIMENSION}, got {str(shape)[:64]}",
            field=name,
            offset=_PREFIX_BYTES,
        )
    if not _is_integers(offsets, 2, 0, MAX_PART_BYTES) or len(offsets) != 2:
        raise MalformedArtifactError(
            f"data_offsets: expected [begin, end], got {str(offsets)[:64]}",
            field=name,
            offset=_PREFIX_BYTES,
        )
    dtype = _DTYPES[tag]
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise MalformedArtifactError(
            f"{tag} of shape {shape} does not take bytes {offsets[0]} to {offsets[1]}",
            field=name,
            offset=_PREFIX_BYTES,
        )
    return _Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(wanted) == len(found) and all(
        length in (None, actual) for length, actual in zip(wanted, found, strict=True)
    )


def _is_integers(value: object, most: int, low: int, high: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(entry) is int and low <= entry <= high for entry in value)
    )
