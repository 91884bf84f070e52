# SPDX-License-Identifier: Apache-2.0
"""A codebook: K rows of integer codes over some of an embedding's columns.

A row stands for codes times scale. Row 0 is zero: what padding, and an item that a
codebook has nothing for, looks up. Rows of 4 bits are held packed, and only those that
are looked up are unpacked. ``docs/format.md`` §5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import check_integer, read_only
from pocketrec_quantization.limits import MAX_ITEMS, MAX_LAYER_SIDE
from pocketrec_quantization.nibbles import pack_nibbles, packed_width, unpack_nibbles
from pocketrec_quantization.quantizer import check_scales, quantize_rows

__all__ = ["ROW_WIDTHS", "Codebook"]

ROW_WIDTHS = (4, 8)
"""Widths that a row's codes may have, in bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codebook:
    """K rows of W codes, for the columns from ``begin`` of every embedding.

    Args:
        codes: (K, W) int8, -127..127 at 8 bits and -7..7 at 4; row 0 is zero. At 4 bits
            (K, ceil(W / 2)) uint8, packed, is taken too, and is what is held.
        scales: (K,) float32, or (1,) for all rows; zero or 2**-126 <= scale < 2**120.
        bits: 4 or 8.
        begin: The first column.
        width: W; 0 = as many as ``codes`` has columns.

    Raises:
        ConfigError: An array has another shape, dtype or range.
    """

    codes: NDArray[np.int8] | NDArray[np.uint8]
    scales: NDArray[np.float32]
    bits: int = 8
    begin: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        if self.bits not in ROW_WIDTHS:
            raise ConfigError(f"bits: expected one of {ROW_WIDTHS}, got {self.bits!r:.80}")
        self._check_shape()
        self._check_codes()
        check_scales(self.scales, (1,) if self.scales.shape == (1,) else (self.n_rows,))
        for name in ("codes", "scales"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def from_rows(cls, rows: NDArray[np.float32], *, bits: int = 8, begin: int = 0) -> Codebook:
        """Quantize rows, each with a scale of its own.

        Args:
            rows: (K, W) float; row 0 is replaced by zeros.
            bits: 4 or 8.
            begin: The first column.

        Raises:
            ConfigError: ``bits`` is another width, or there are no rows beside row 0.
            QuantizationError: A row is not finite.
        """
        if bits not in ROW_WIDTHS:
            raise ConfigError(f"bits: expected one of {ROW_WIDTHS}, got {bits!r:.80}")
        codes, scales = quantize_rows(rows, bits)
        codes[0], scales[0] = 0, 0
        return cls(codes=codes, scales=scales, bits=bits, begin=begin)

    @property
    def n_rows(self) -> int:
        """K, row 0 counted."""
        return int(self.codes.shape[0])

    @property
    def end(self) -> int:
        """The column after the last."""
        return self.begin + self.width

    @property
    def has_row_scales(self) -> bool:
        """Whether every row has a scale of its own."""
        return self.scales.shape == (self.n_rows,)

    @property
    def n_bytes(self) -> int:
        """Bytes of codes, as they are packed, and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def codes_of(self, rows: NDArray[np.integer]) -> NDArray[np.int8]:
        """Return the codes of rows, (n, W) int8, for (n,) row numbers."""
        found = self.codes.take(rows, axis=0)
        if self.bits == 8:
            return found.view(np.int8)
        return unpack_nibbles(found.view(np.uint8), self.width)

    def scales_of(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the scales of rows, (n,) float32, for (n,) row numbers."""
        if self.has_row_scales:
            return self.scales.take(rows)
        return np.broadcast_to(self.scales, rows.shape)

    def embeddings(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return what rows stand for, (n, W) float32, for (n,) row numbers."""
        found: NDArray[np.float32] = np.multiply(
            self.codes_of(rows), self.scales_of(rows)[:, None], dtype=np.float32
        )
        return found

    def _check_shape(self) -> None:
        is_packed = self.bits == 4 and self.codes.dtype == np.uint8
        if not (is_packed or self.codes.dtype == np.int8) or self.codes.ndim != 2:
            raise ConfigError(
                f"codes: expected (K, W) int8, got {self.codes.dtype} of {self.codes.shape}"
            )
        if not self.width and not is_packed:
            object.__setattr__(self, "width", int(self.codes.shape[1]))
        check_integer(self.width, field="width", minimum=1, maximum=MAX_LAYER_SIDE)
        check_integer(self.begin, field="begin", maximum=MAX_LAYER_SIDE - self.width)
        expected = packed_width(self.width) if is_packed else self.width
        if self.codes.shape[1] != expected:
            raise ConfigError(
                f"codes: expected rows of {expected} for {self.width} columns, got "
                f"{self.codes.shape[1]}"
            )
        if not 2 <= self.n_rows <= MAX_ITEMS + 1:
            raise ConfigError(
                f"codes: expected the padding row and 1..{MAX_ITEMS} more rows, got {self.n_rows}"
            )

    def _check_codes(self) -> None:
        if self.codes[0].any():
            raise ConfigError("codes: expected zeros in row 0")
        if self.bits == 8:
            if (self.codes == -128).any():
                raise ConfigError("codes: expected -127..127, got -128")
        elif self.codes.dtype == np.int8:
            object.__setattr__(self, "codes", pack_nibbles(self.codes.view(np.int8)))
        else:
            self._check_packed(self.codes.view(np.uint8))

    def _check_packed(self, packed: NDArray[np.uint8]) -> None:
        lowest = np.uint8(8)  # the half byte of -8
        if ((packed & np.uint8(15)) == lowest).any() or ((packed >> np.uint8(4)) == lowest).any():
            raise ConfigError("codes: expected -7..7 at 4 bits, got -8")
        if self.width % 2 and (packed[:, -1] >> np.uint8(4)).any():
            raise ConfigError("codes: expected zeros after the last code of a row")
