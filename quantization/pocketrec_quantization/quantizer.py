# SPDX-License-Identifier: Apache-2.0
"""One 8-bit store that reads as 8, 4 or 2 bits per channel.

The 4- and 2-bit codes are integer functions of the 8-bit code q alone::

    q_b = sign(q) * min((|q| * m_b + 2**15) >> 16, 2**(b-1) - 1)      value = q_b * s_b

with a multiplier m_b (about 2**16 * s_8 / s_b) and a scale s_b per channel. No float
decides a code, and a value is one IEEE product, so cloud and device agree bit for bit.

The search for m_b is exhaustive. The codes depend on m_b only through thresholds on
|q| <= 127, so there are 127 different 2-bit and 722 different 4-bit readings of a
store. Each is tried with its least-squares scale s = <w, q> / <q, q>, and the one that
leaves the smallest squared error against the float weights wins. For channels of 64
xavier-uniform weights the relative error |w - w'| / |w| is .28-.38 at 2 bits (median
.33), .053-.082 at 4 (.064) and .0037 at 8. Quantizing for 2 or 4 bits alone, with a
store per width, would win less than half a percent of that error on any channel.

Source: CHORD leaves the quantizer open. Symmetric, per output channel, MSE-optimal per
width and nested is our choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, QuantizationError
from pocketrec_quantization.checks import read_only

__all__ = [
    "STORED_WIDTHS",
    "ChannelReading",
    "FrozenMatrix",
    "check_scales",
    "freeze_matrix",
    "narrow_codes",
    "quantize_rows",
    "read_channels",
]

STORED_WIDTHS = (2, 4, 8)
"""Widths a frozen matrix can be read at, in the order of its scales."""

_QMAX = {2: 1, 4: 7, 8: 127}
_ONE = 1 << 16  # fixed-point one of the multipliers
_HALF = 1 << 15
_MAX_SCALE = np.float32(2.0**120)  # 127 scales stay finite
_MIN_SCALE = np.finfo(np.float32).tiny  # subnormals are zero on some processors
_BLOCK = 256  # channels that are searched at once: bounds the memory of the search
_CACHED = 1 << 15  # weights that are worked on at once, so that they stay in a core's cache
_CLIPS = np.concatenate([np.linspace(1.0, 0.9, 64), np.geomspace(0.89, 0.125, 32)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenMatrix:
    """A matrix of C channels and N elements, readable at 0, 2, 4 or 8 bits per channel.

    Args:
        codes: (C, N) int8, the 8-bit codes, -127..127.
        scales: (3, C) float32, for 2, 4 and 8 bits; zero or 2**-126 <= scale < 2**120.
        multipliers: (2, C) uint16, for 2 and 4 bits.

    Raises:
        ConfigError: An array has another shape, dtype or range.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    multipliers: NDArray[np.uint16]

    def __post_init__(self) -> None:
        if self.codes.dtype != np.int8 or self.codes.ndim != 2 or self.codes.size == 0:
            raise ConfigError(
                f"codes: expected (C, N) int8, got {self.codes.dtype} of {self.codes.shape}"
            )
        n_channels = self.codes.shape[0]
        if self.multipliers.dtype != np.uint16 or self.multipliers.shape != (2, n_channels):
            raise ConfigError(
                f"multipliers: expected (2, {n_channels}) uint16, got {self.multipliers.shape}"
            )
        if (self.codes == -128).any():
            raise ConfigError("codes: expected -127..127, got -128")
        check_scales(self.scales, (3, n_channels))
        for name in ("codes", "scales", "multipliers"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def n_channels(self) -> int:
        """C, the rows of the matrix."""
        return int(self.codes.shape[0])

    @property
    def n_elements(self) -> int:
        """N, the columns of the matrix."""
        return int(self.codes.shape[1])

    def codes_at(self, bits: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Read the codes at a width per channel.

        Args:
            bits: (C,) uint8, each 0, 2, 4 or 8.

        Returns:
            (C, N) int8, within -1..1, -7..7 or -127..127; zeros where bits is 0.

        Raises:
            QuantizationError: ``bits`` has another shape or holds another width.
        """
        self._check_bits(bits)
        reading = read_channels(self.scales, self.multipliers, bits)
        return narrow_codes(
            self.codes, reading.multipliers[:, None], reading.largest[:, None]
        ).astype(np.int8)

    def dequantize(self, bits: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the weights that ``bits`` stands for, the same bits on every machine.

        Args:
            bits: (C,) uint8, each 0, 2, 4 or 8.

        Returns:
            (C, N) float32, code times scale.

        Raises:
            QuantizationError: ``bits`` has another shape or holds another width.
        """
        self._check_bits(bits)
        reading = read_channels(self.scales, self.multipliers, bits)
        weights = narrow_codes(self.codes, reading.multipliers[:, None], reading.largest[:, None])
        weights *= reading.scales[:, None]
        return weights

    def _check_bits(self, bits: NDArray[np.uint8]) -> None:
        if bits.shape != (self.n_channels,):
            raise QuantizationError(f"bits: expected shape ({self.n_channels},), got {bits.shape}")
        if not np.isin(bits, (0, *STORED_WIDTHS)).all():
            raise QuantizationError(
                f"bits: expected widths of 0, 2, 4 or 8, got {np.unique(bits).tolist()}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ChannelReading:
    """How C channels are read at their widths; see :func:`read_channels`.

    Args:
        multipliers: (C,) float32, multiples of 2**-16; 1 at 8 bits, 0 where pruned.
        largest: (C,) float32, the largest code.
        scales: (C,) float32; 0 where pruned.
    """

    multipliers: NDArray[np.float32]
    largest: NDArray[np.float32]
    scales: NDArray[np.float32]


def read_channels(
    scales: NDArray[np.float32], multipliers: NDArray[np.uint16], bits: NDArray[np.uint8]
) -> ChannelReading:
    """Look up how channels are read at their widths.

    Args:
        scales: (3, C) float32, as a :class:`FrozenMatrix` holds them.
        multipliers: (2, C) uint16, likewise.
        bits: (C,) uint8, each 0, 2, 4 or 8.
    """
    multiplier = np.zeros(bits.size, np.float32)
    largest = np.zeros(bits.size, np.float32)
    scale = np.zeros(bits.size, np.float32)
    for row, width in enumerate(STORED_WIDTHS):
        chosen = bits == width
        largest[chosen] = _QMAX[width]
        scale[chosen] = scales[row, chosen]
        multiplier[chosen] = 1.0 if width == 8 else multipliers[row, chosen] / np.float32(_ONE)
    return ChannelReading(multiplier, largest, scale)


def narrow_codes(
    codes: NDArray[np.int8], multipliers: NDArray[np.float32], largest: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply the nested code rule to whole matrices.

    Every number on the way is an integer below 2**24, or such a one over 2**16, so
    float32 holds it exactly: the result is that of the integer rule.

    Args:
        codes: (R, S) int8, 8-bit codes; channels along either axis.
        multipliers: (R, 1) or (1, S) float32, of a :class:`ChannelReading`.
        largest: The same shape.

    Returns:
        (R, S) float32, integers.
    """
    narrowed = np.empty(codes.shape, np.float32)
    step = max(1, _CACHED // codes.shape[1])
    is_by_row = multipliers.shape[0] > 1
    for start in range(0, codes.shape[0], step):
        block = slice(start, start + step)
        channels = block if is_by_row else slice(None)
        signed = codes[block].astype(np.float32)
        magnitude = np.abs(signed, out=narrowed[block])
        magnitude *= multipliers[channels]
        magnitude += np.float32(0.5)
        np.floor(magnitude, out=magnitude)
        np.minimum(magnitude, largest[channels], out=magnitude)
        np.copysign(magnitude, signed, out=magnitude)
        magnitude += np.float32(0)  # minus zero is no code
    return narrowed


def freeze_matrix(weights: NDArray[np.float32]) -> FrozenMatrix:
    """Quantize a float matrix once, for every width.

    Args:
        weights: (C, N) float, finite, below 2**120 in magnitude. Channels of zeros are fine.

    Returns:
        The store. Takes O(C * N) time, and peaks at about 17 bytes per weight.

    Raises:
        QuantizationError: The matrix is empty, not two-dimensional, or not finite.
    """
    exact = _checked(weights)
    n_channels = exact.shape[0]
    codes = np.zeros(exact.shape, np.int8)
    scales = np.zeros((3, n_channels), np.float32)
    multipliers = np.zeros((2, n_channels), np.uint16)
    for start in range(0, n_channels, _BLOCK):
        block = slice(start, start + _BLOCK)
        codes[block], scales[2, block] = _clipped(exact[block], _QMAX[8])
        histogram = _Histogram.of(exact[block], codes[block])
        for row, width in enumerate(STORED_WIDTHS[:2]):
            multipliers[row, block], scales[row, block] = histogram.best_reading(_QMAX[width])
    return FrozenMatrix(codes=codes, scales=_without_subnormals(scales), multipliers=multipliers)


def quantize_rows(
    rows: NDArray[np.float32], bits: int = 8
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize every row with a scale of its own.

    Args:
        rows: (K, D) float, finite, below 2**120 in magnitude.
        bits: 2, 4 or 8.

    Returns:
        Codes (K, D) int8 within -1..1, -7..7 or -127..127, and scales (K,) float32.

    Raises:
        QuantizationError: The array is empty, not two-dimensional, or not finite.
    """
    codes, scales = _clipped(_checked(rows), _QMAX[bits])
    return codes, _without_subnormals(scales.astype(np.float32))


def check_scales(scales: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    """Refuse scales whose products with codes could overflow, or flush to zero.

    Args:
        scales: float32 of ``shape``; each zero or 2**-126 <= scale < 2**120.
        shape: What is expected.

    Raises:
        ConfigError: Shape, dtype or a value differs.
    """
    if scales.dtype != np.float32 or scales.shape != shape:
        raise ConfigError(
            f"scales: expected float32 of {shape}, got {scales.dtype} of {scales.shape}"
        )
    if not ((scales == 0) | ((scales >= _MIN_SCALE) & (scales < _MAX_SCALE))).all():
        raise ConfigError("scales: expected zero or 2**-126 <= scale < 2**120, got another value")


def _checked(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    if weights.ndim != 2 or weights.size == 0:
        raise QuantizationError(f"expected a matrix (C, N), got an array of shape {weights.shape}")
    exact = weights.astype(np.float64)
    if not (np.abs(exact) < float(_MAX_SCALE)).all():
        raise QuantizationError(
            "expected finite weights below 2**120, got NaN, infinity or larger ones"
        )
    return exact


def _without_subnormals(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(scales < _MIN_SCALE, np.float32(0), scales)


def _clipped(
    exact: NDArray[np.float64], largest_code: int
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Search the clip grid per channel; return codes (C, N) and least-squares scales (C,)."""
    largest = np.abs(exact).max(axis=1)
    largest[largest == 0] = 1.0
    best = np.full(largest.shape, -1.0)
    codes = np.zeros(exact.shape, np.int8)
    scales = np.zeros(largest.shape)
    for clip in _CLIPS:
        step = (clip * largest / largest_code)[:, None]
        trial = np.clip(np.rint(exact / step), -largest_code, largest_code)
        along, norm = (exact * trial).sum(axis=1), (trial * trial).sum(axis=1)
        scale = along / np.maximum(norm, 1.0)
        better = along * scale > best
        best[better] = (along * scale)[better]
        scales[better] = scale[better]
        codes[better] = trial[better].astype(np.int8)
    return codes, scales


def _narrow(
    magnitude: NDArray[np.int8], multiplier: NDArray[np.uint16], largest: int
) -> NDArray[np.int8]:
    """Apply the nested code rule to magnitudes: format §4.2."""
    product = magnitude.astype(np.uint32) * multiplier.astype(np.uint32)
    narrowed = (product + np.uint32(_HALF)) >> np.uint32(16)
    clipped: NDArray[np.uint32] = np.minimum(narrowed, np.uint32(largest))
    return clipped.astype(np.int8)


@cache
def _readings(largest: int) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """List every different reading of the magnitudes 0..127.

    Returns:
        Multipliers (G,), the smallest of each reading, and the magnitudes (128, G) they give.
    """
    steps = np.arange(1, largest + 1)[:, None] * _ONE - _HALF
    # A code reaches k at the smallest m with |q| * m + 2**15 >= k * 2**16.
    thresholds = -(-steps // np.arange(1, 128)[None, :])
    multipliers = np.unique(thresholds[thresholds < _ONE]).astype(np.uint16)
    magnitudes = np.arange(128, dtype=np.int8)[:, None]
    return multipliers, _narrow(magnitudes, multipliers[None, :], largest).astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Histogram:
    """What the search needs of a matrix: sums over the elements that share |q|.

    Attributes:
        weight: (C, 128) float64, sum of sign(q) * w.
        count: (C, 128) float64, how many elements.
    """

    weight: NDArray[np.float64]
    count: NDArray[np.float64]

    @classmethod
    def of(cls, exact: NDArray[np.float64], codes: NDArray[np.int8]) -> _Histogram:
        n_channels = codes.shape[0]
        cells = np.abs(codes).astype(np.int64) + 128 * np.arange(n_channels)[:, None]
        flat, size = cells.ravel(), 128 * n_channels
        weight = np.bincount(flat, (np.sign(codes) * exact).ravel(), minlength=size)
        count = np.bincount(flat, minlength=size)
        return cls(
            weight.reshape(-1, 128).astype(np.float64), count.reshape(-1, 128).astype(np.float64)
        )

    def best_reading(self, largest: int) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
        """Return per channel the multiplier (C,) and scale (C,) of the smallest squared error."""
        multipliers, magnitudes = _readings(largest)
        along = self.weight @ magnitudes  # <w, q>, (C, G)
        norm = self.count @ (magnitudes * magnitudes)  # <q, q>
        scales = along / np.maximum(norm, 1.0)
        best = np.argmax(along * scales, axis=1)  # |w|^2 minus this is the error
        channels = np.arange(best.size)
        return multipliers[best], scales[channels, best]
