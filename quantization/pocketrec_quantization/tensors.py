# SPDX-License-Identifier: Apache-2.0
"""Named arrays in one file: the safetensors layout, written one way and read strictly.

Any safetensors library reads these files. We write and read them ourselves because
parts are named by their digest and come from outside: equal tensors must give equal
bytes in every release, an error must say which field is wrong and where, and reading
must not copy the weights: arrays are views of the bytes. ``docs/format.md`` §3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.checks import check_major
from pocketrec_quantization.limits import MAX_INTEGER, MAX_RANK
from pocketrec_quantization.tensor_header import DTYPES, METADATA, PREFIX_BYTES, read_header

__all__ = ["TENSORS_VERSION", "TensorReader", "write_tensors"]

TENSORS_VERSION = (1, 0)
"""Major and minor version of a tensor file, but for kinds with layouts of their own."""

_TAGS = {dtype: tag for tag, dtype in DTYPES.items()}
_ALIGNMENT = 8
_COUNT = re.compile(r"0|[1-9][0-9]{0,15}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})")


def write_tensors(
    tensors: Mapping[str, NDArray[Any]],
    *,
    kind: str,
    metadata: Mapping[str, str] | None = None,
    version: tuple[int, int] = TENSORS_VERSION,
) -> bytes:
    """Serialise named arrays; equal arguments give equal bytes.

    Args:
        tensors: Name to array of float64, float32, int64, int32, uint16, int8 or uint8.
        kind: What the file is, such as ``pocketrec.frozen``.
        metadata: Further entries of the header, ASCII.
        version: Major and minor version of the kind.

    Returns:
        The header's length, the header in JSON padded to a multiple of 8 bytes, and the
        arrays: wider types first, by name within one width.

    Raises:
        ConfigError: An array is empty or a scalar, or its type is not one of these.
    """
    arrays = {name: _little_endian(name, array) for name, array in tensors.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    own = {"format": kind, "version": f"{version[0]}.{version[1]}"}
    header: dict[str, object] = {METADATA: dict(sorted({**(metadata or {}), **own}.items()))}
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _TAGS[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _ALIGNMENT)
    length = len(text).to_bytes(PREFIX_BYTES, "little")
    return b"".join([length, text, *(arrays[name].tobytes() for name in order)])


class TensorReader:
    """Hands out the tensors of one file, each checked against what is expected of it.

    Call :meth:`take` for every tensor, then :meth:`finish`, which refuses what nobody
    asked for.

    Args:
        data: The whole file.
        kind: The kind it must declare.
        versions: Major and minor versions that the caller reads, one for each major.

    Raises:
        MalformedArtifactError: The bytes break the layout, or declare another kind.
        IncompatibleArtifactError: The major version is unknown.
    """

    def __init__(
        self, data: bytes, *, kind: str, versions: Sequence[tuple[int, int]] = (TENSORS_VERSION,)
    ) -> None:
        header = read_header(data)
        self._data = data
        self._entries = header.entries
        self._texts = header.texts
        found = self.text("format")
        if found != kind:
            raise MalformedArtifactError(
                f"expected {kind!r}, got {found[:64]!r}", field="format", offset=PREFIX_BYTES
            )
        version = self.text("version")
        match = _VERSION.fullmatch(version)
        if match is None:
            raise MalformedArtifactError(
                f"expected MAJOR.MINOR, got {version[:64]!r}", field="version", offset=PREFIX_BYTES
            )
        found_version = int(match[1]), int(match[2])
        check_major(found_version, *versions, what=f"the {kind} file")
        self.major = found_version[0]
        self._is_known = found_version[1] <= dict(versions)[self.major]

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names of the tensors not yet taken that start with ``prefix``, sorted."""
        return tuple(sorted(name for name in self._entries if name.startswith(prefix)))

    def text_names(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names of the metadata not yet taken that start with ``prefix``, sorted."""
        return tuple(sorted(name for name in self._texts if name.startswith(prefix)))

    def text(self, name: str) -> str:
        """Take one entry of the header's metadata.

        Raises:
            MalformedArtifactError: It is absent, or taken already.
        """
        if name not in self._texts:
            raise MalformedArtifactError(
                "expected this entry of the metadata, found none", field=name, offset=PREFIX_BYTES
            )
        return self._texts.pop(name)

    def count(self, name: str) -> int:
        """Take one entry of the header's metadata that is a number in decimal digits.

        Raises:
            MalformedArtifactError: It is absent, or no number of 0..2**53 - 1.
        """
        text = self.text(name)
        if not _COUNT.fullmatch(text) or int(text) > MAX_INTEGER:
            raise MalformedArtifactError(
                f"expected 0..{MAX_INTEGER}, got {text[:64]!r}", field=name, offset=PREFIX_BYTES
            )
        return int(text)

    def take(
        self, name: str, dtype: type[Any], shape: tuple[int | None, ...] | None
    ) -> NDArray[Any]:
        """Return one tensor as a read-only view of the file.

        Args:
            name: Its name.
            dtype: The NumPy scalar type it must have.
            shape: The shape it must have; None instead of a length matches any length,
                None instead of the shape matches any shape.

        Raises:
            MalformedArtifactError: It is absent, taken already, or of another type or shape.
        """
        entry = self._entries.pop(name, None)
        if entry is None:
            raise MalformedArtifactError("expected this tensor, found none", field=name)
        expected = np.dtype(dtype)
        if entry.dtype != expected.newbyteorder("<") or not _fits(entry.shape, shape):
            raise MalformedArtifactError(
                f"expected {expected} of {shape}, got {entry.dtype} of {entry.shape}",
                field=name,
                offset=entry.begin,
            )
        flat = np.frombuffer(self._data, entry.dtype, math.prod(entry.shape), entry.begin)
        return flat.reshape(entry.shape).astype(expected, copy=False)

    def finish(self) -> None:
        """Refuse what nobody took, unless a newer minor version may have added it.

        Raises:
            MalformedArtifactError: There is something left.
        """
        for name in sorted([*self._entries, *self._texts]):
            if self._is_known:
                raise MalformedArtifactError("unexpected entry", field=name, offset=PREFIX_BYTES)


def _little_endian(name: str, array: NDArray[Any]) -> NDArray[Any]:
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _TAGS or array.size == 0 or not 1 <= array.ndim <= MAX_RANK:
        raise ConfigError(
            f"tensor {name!r}: expected {', '.join(DTYPES)} of 1 to {MAX_RANK} dimensions that "
            f"are not empty, got {array.dtype} of {array.shape}"
        )
    return array.astype(dtype, copy=False)


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(wanted) == len(found) and all(
        length in {None, actual} for length, actual in zip(wanted, found, strict=True)
    )
