# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pocketrec.errors import ConfigError, QuantizationError
from pocketrec_quantization.quantizer import (
    FrozenMatrix,
    freeze_matrix,
    narrow_codes,
    quantize_rows,
    read_channels,
)

QMAX = {2: 1, 4: 7, 8: 127}
matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def uniform(n_channels: int, bits: int) -> np.ndarray:
    """Return one width for all channels."""
    return np.full(n_channels, bits, np.uint8)


def relative_errors(weights: np.ndarray, approximation: np.ndarray) -> np.ndarray:
    """|w - w'| / |w| per channel."""
    exact = weights.astype(np.float64)
    errors: np.ndarray = np.linalg.norm(exact - approximation, axis=1)
    errors /= np.linalg.norm(exact, axis=1)
    return errors


def direct_errors(weights: np.ndarray, bits: int) -> np.ndarray:
    """Relative errors of quantizing for one width alone: dense clip grid, then refinement."""
    exact = weights.astype(np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True)
    best = np.full(len(exact), np.inf)
    for clip in np.linspace(0.1, 1.6, 300):
        scale = clip * largest / QMAX[bits]
        for _ in range(6):
            codes = np.clip(np.rint(exact / scale), -QMAX[bits], QMAX[bits])
            norm = (codes * codes).sum(axis=1, keepdims=True)
            fitted = (exact * codes).sum(axis=1, keepdims=True) / np.maximum(norm, 1)
            scale = np.where(fitted > 0, fitted, scale)
        best = np.minimum(best, ((exact - codes * scale) ** 2).sum(axis=1))
    errors: np.ndarray = np.sqrt(best) / np.linalg.norm(exact, axis=1)
    return errors


def xavier_uniform(n_channels: int, n_elements: int) -> np.ndarray:
    """Return weights as layers are usually initialised."""
    bound = np.sqrt(6 / (n_channels + n_elements))
    shape = (n_channels, n_elements)
    return np.random.default_rng(0).uniform(-bound, bound, shape).astype(np.float32)


def heavy_tailed(n_channels: int, n_elements: int) -> np.ndarray:
    """Return weights with outliers in every channel."""
    shape = (n_channels, n_elements)
    return np.random.default_rng(0).standard_t(3, shape).astype(np.float32)


class TestNestedCodes:
    def test_rule_by_hand(self) -> None:
        """With m = 2**16 / 100 rounded up, |q| >= 50 reads as 1; with half of it, never."""
        matrix = FrozenMatrix(
            codes=np.array([[49, 50, -50, 127], [127, -127, 1, 0]], np.int8),
            scales=np.ones((3, 2), np.float32),
            multipliers=np.array([[656, 255], [656 * 9, 0]], np.uint16),
        )

        assert matrix.codes_at(uniform(2, 2)).tolist() == [[0, 1, -1, 1], [0, 0, 0, 0]]
        # 49 * 5904 / 65536 = 4.41, 50 * ... = 4.50 rounds up, 127 * ... = 11.4 is capped at 7.
        assert matrix.codes_at(uniform(2, 4))[0].tolist() == [4, 5, -5, 7]

    @given(matrices, st.data())
    def test_codes_are_integers_of_the_8_bit_codes_alone(
        self, weights: np.ndarray, data: st.DataObject
    ) -> None:
        """Equal 8-bit codes of one channel read as equal codes at every width, in order."""
        matrix = freeze_matrix(weights)
        widths = st.sampled_from([0, 2, 4, 8])
        bits = data.draw(arrays(np.uint8, len(weights), elements=widths))

        codes = matrix.codes_at(bits)

        for row, stored, width in zip(codes, matrix.codes, bits, strict=True):
            assert np.abs(row).max() <= QMAX.get(int(width), 0)
            order = np.argsort(stored, kind="stable")
            assert (np.diff(row[order].astype(int)) >= 0).all()
            assert (row[stored == 0] == 0).all()

    def test_channels_do_not_see_their_neighbours(self) -> None:
        """A channel reads the same in any mix of widths."""
        matrix = freeze_matrix(xavier_uniform(6, 16))
        mixed = np.array([0, 2, 4, 8, 4, 2], np.uint8)

        together = matrix.dequantize(mixed)

        for channel, width in enumerate(mixed):
            alone = matrix.dequantize(uniform(6, width))
            np.testing.assert_array_equal(together[channel], alone[channel])


def by_integers(codes: np.ndarray, multipliers: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return what the rule of format §4.2 gives, in integers; all are (R, S)."""
    magnitude = (np.abs(codes.astype(np.int64)) * multipliers + 2**15) >> 16
    narrowed: np.ndarray = np.sign(codes) * np.minimum(magnitude, largest)
    return narrowed


def stretched(multipliers: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return multipliers and largest codes as ``narrow_codes`` takes them."""
    in_float = multipliers.astype(np.float32) / np.float32(2**16)
    return in_float, largest.astype(np.float32)


class TestNarrowing:
    """The float32 way of reading codes, against the integers that the format prescribes."""

    ALL = np.arange(-127, 128, dtype=np.int8)

    @pytest.mark.parametrize("largest", [0, 1, 7, 127])
    def test_every_code_under_every_kind_of_multiplier(self, largest: int) -> None:
        """All 255 codes, along either axis, under small, large, and all-but-rounding ones."""
        edges = np.array([0, 1, 2, 127, 255, 256, 257, 32767, 32768, 32769, 65535], np.uint16)
        # Where a code first reaches k: one less and one more must differ.
        steps = (np.arange(1, 8) * 2**16 - 2**15)[:, None] // np.arange(1, 128)
        around = np.unique(np.concatenate([(steps + d).ravel() for d in (-1, 0, 1)]))
        chosen = np.concatenate([edges, around[(around >= 0) & (around < 2**16)]]).astype(np.int64)
        codes = np.repeat(self.ALL[None], len(chosen), axis=0)
        expected = by_integers(codes, chosen[:, None], np.array(largest))
        multipliers, limits = stretched(chosen, np.full(len(chosen), largest))

        by_row = narrow_codes(codes, multipliers[:, None], limits[:, None])
        by_column = narrow_codes(np.ascontiguousarray(codes.T), multipliers[None], limits[None])

        np.testing.assert_array_equal(by_row, expected)
        np.testing.assert_array_equal(by_column, expected.T)

    @given(
        arrays(
            np.int8,
            array_shapes(min_dims=2, max_dims=2, max_side=40),
            elements=st.integers(-127, 127),
        ),
        st.booleans(),
        st.data(),
    )
    def test_equals_the_integer_rule(
        self, codes: np.ndarray, is_by_row: bool, data: st.DataObject
    ) -> None:
        """Random matrices, a reading per channel, channels along either axis; no minus zero."""
        n_channels = codes.shape[0 if is_by_row else 1]
        multipliers = data.draw(arrays(np.uint16, n_channels))
        largest = data.draw(arrays(np.uint8, n_channels, elements=st.sampled_from([0, 1, 7, 127])))
        place = (slice(None), None) if is_by_row else (None, slice(None))
        floats, limits = stretched(multipliers, largest)

        found = narrow_codes(codes, floats[place], limits[place])

        expected = by_integers(codes, multipliers.astype(np.int64)[place], largest[place])
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32
        assert not np.signbit(found[found == 0]).any()

    @pytest.mark.parametrize("shape", [(700, 100), (100, 700), (1, 40_000), (40_000, 1)])
    def test_large_matrices_are_cut_without_a_seam(self, shape: tuple[int, int]) -> None:
        """What is worked on piece by piece reads like one piece."""
        rng = np.random.default_rng(0)
        codes = rng.integers(-127, 128, shape).astype(np.int8)
        for axis, place in ((0, (slice(None), None)), (1, (None, slice(None)))):
            multipliers = rng.integers(0, 2**16, shape[axis])
            largest = rng.choice([0, 1, 7, 127], shape[axis])
            floats, limits = stretched(multipliers, largest)

            found = narrow_codes(codes, floats[place], limits[place])

            np.testing.assert_array_equal(
                found, by_integers(codes, multipliers[place], largest[place])
            )

    def test_codes_are_left_alone(self) -> None:
        """The store is shared by all plans."""
        codes = self.ALL[None].copy()

        narrow_codes(codes, np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))

        np.testing.assert_array_equal(codes[0], self.ALL)


class TestReadChannels:
    def test_looks_up_each_channel_at_its_width(self) -> None:
        """Multiplier, largest code and scale follow the width; 8 bits need no multiplier."""
        scales = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], np.float32)
        multipliers = np.array([[2**15, 1, 2, 3], [4, 2**14, 5, 6]], np.uint16)

        reading = read_channels(scales, multipliers, np.array([2, 4, 8, 0], np.uint8))

        assert reading.multipliers.tolist() == [0.5, 0.25, 1, 0]
        assert reading.largest.tolist() == [1, 7, 127, 0]
        assert reading.scales.tolist() == [1, 6, 11, 0]

    @given(matrices, st.data())
    def test_agrees_with_the_matrix(self, weights: np.ndarray, data: st.DataObject) -> None:
        """Reading a transposed store gives the matrix's own codes and weights, transposed."""
        matrix = freeze_matrix(weights)
        widths = st.sampled_from([0, 2, 4, 8])
        bits = data.draw(arrays(np.uint8, len(weights), elements=widths))
        reading = read_channels(matrix.scales, matrix.multipliers, bits)

        codes = narrow_codes(
            np.ascontiguousarray(matrix.codes.T), reading.multipliers[None], reading.largest[None]
        )

        np.testing.assert_array_equal(codes.T, matrix.codes_at(bits))
        np.testing.assert_array_equal((codes * reading.scales).T, matrix.dequantize(bits))


class TestValues:
    @given(matrices)
    def test_a_value_is_one_float32_product(self, weights: np.ndarray) -> None:
        """Dequantizing is code times scale, rounded once: the same bits everywhere."""
        matrix = freeze_matrix(weights)

        for row, width in enumerate((2, 4, 8)):
            bits = uniform(len(weights), width)
            exact = matrix.codes_at(bits).astype(np.float64) * matrix.scales[row][:, None]
            np.testing.assert_array_equal(matrix.dequantize(bits), exact.astype(np.float32))

    @given(matrices)
    def test_the_scale_is_the_least_squares_one(self, weights: np.ndarray) -> None:
        """No other scale fits the float weights better with the codes of any width."""
        matrix = freeze_matrix(weights)
        exact = weights.astype(np.float64)

        for row, width in enumerate((2, 4, 8)):
            codes = matrix.codes_at(uniform(len(weights), width)).astype(np.float64)
            scales = matrix.scales[row].astype(np.float64)
            norm = (codes * codes).sum(axis=1)
            fitted = (exact * codes).sum(axis=1) / np.maximum(norm, 1)
            fitted[fitted < 2.0**-126] = 0
            np.testing.assert_allclose(scales, fitted, rtol=1e-6)

    def test_large_matrices_are_searched_in_blocks(self) -> None:
        """How many channels there are does not change what any of them becomes."""
        weights = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)

        together, last = freeze_matrix(weights), freeze_matrix(weights[-1:])

        np.testing.assert_array_equal(together.codes[-1:], last.codes)
        np.testing.assert_array_equal(together.multipliers[:, -1:], last.multipliers)
        np.testing.assert_allclose(together.scales[:, -1:], last.scales, rtol=1e-6)

    def test_pruned_channels_are_zeros(self) -> None:
        """0 bits leaves nothing of a channel."""
        matrix = freeze_matrix(xavier_uniform(2, 8))

        assert not matrix.dequantize(np.array([0, 8], np.uint8))[0].any()

    def test_channels_of_zeros_stay_zeros(self) -> None:
        """A channel without weights freezes to zeros of scale 0 at every width."""
        weights = np.array([[0, 0], [1, -1]], np.float32)

        matrix = freeze_matrix(weights)

        assert not matrix.scales[:, 0].any()
        for width in (2, 4, 8):
            np.testing.assert_allclose(matrix.dequantize(uniform(2, width)), weights)

    def test_values_beside_the_subnormals_become_zero(self) -> None:
        """Scales that a processor might flush to zero are zero for all of them."""
        matrix = freeze_matrix(np.full((1, 4), 1e-39, np.float32))

        assert not matrix.scales.any()

    def test_a_store_cannot_be_written_to(self) -> None:
        """Frozen arrays are frozen."""
        matrix = freeze_matrix(xavier_uniform(2, 8))

        with pytest.raises(ValueError, match="read-only"):
            matrix.codes[0, 0] = 1


class TestErrors:
    @pytest.mark.parametrize(
        ("bits", "low", "median", "high"),
        [(2, 0.27, 0.33, 0.39), (4, 0.05, 0.064, 0.085), (8, 0.003, 0.0037, 0.0055)],
    )
    def test_relative_error_of_xavier_uniform_channels(
        self, bits: int, low: float, median: float, high: float
    ) -> None:
        """Channels of 64 weights lose about 33 %, 6.4 % and .37 % at 2, 4 and 8 bits."""
        weights = xavier_uniform(64, 64)

        errors = relative_errors(weights, freeze_matrix(weights).dequantize(uniform(64, bits)))

        assert low < errors.min() <= errors.max() < high
        assert np.median(errors) == pytest.approx(median, rel=0.05)

    @pytest.mark.parametrize("bits", [2, 4])
    @pytest.mark.parametrize("make", [xavier_uniform, heavy_tailed])
    def test_nesting_costs_nearly_nothing(self, make: type, bits: int) -> None:
        """No channel is .5 % worse than a store of its own for that one width would be."""
        weights = make(64, 64)

        nested = relative_errors(weights, freeze_matrix(weights).dequantize(uniform(64, bits)))
        alone = direct_errors(weights, bits)

        assert (nested <= alone * 1.005).all()
        assert nested.mean() <= alone.mean() * 1.001

    def test_more_bits_are_never_worse(self) -> None:
        """Error falls with width on every channel, heavy tails included."""
        weights = heavy_tailed(64, 64)
        matrix = freeze_matrix(weights)

        two, four, eight = (
            relative_errors(weights, matrix.dequantize(uniform(64, bits))) for bits in (2, 4, 8)
        )

        assert (eight < four).all()
        assert (four < two).all()


class TestRows:
    @given(matrices)
    def test_rows_are_within_half_a_step_or_better(self, rows: np.ndarray) -> None:
        """The search never does worse than plain rounding to 127 steps."""
        codes, scales = quantize_rows(rows)

        exact = rows.astype(np.float64)
        step = np.abs(exact).max(axis=1, keepdims=True) / 127
        plain = np.where(step > 0, np.rint(exact / np.where(step > 0, step, 1)) * step, 0)
        error = ((exact - codes * scales[:, None].astype(np.float64)) ** 2).sum(axis=1)
        bound = ((exact - plain) ** 2).sum(axis=1)
        slack = 1e-6 * (exact**2).sum(axis=1) + 1e-70
        assert (error <= bound + slack).all()


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(np.array([[np.nan]], np.float32), id="NaN"),
        pytest.param(np.array([[np.inf]], np.float32), id="infinite"),
        pytest.param(np.array([[2.0**120]], np.float32), id="scales would overflow"),
        pytest.param(np.zeros((0, 4), np.float32), id="no channels"),
        pytest.param(np.zeros((4, 0), np.float32), id="no elements"),
        pytest.param(np.zeros(4, np.float32), id="one dimension"),
    ],
)
def test_weights_that_cannot_be_frozen(weights: np.ndarray) -> None:
    """Only finite, non-empty matrices of sane size are quantized."""
    with pytest.raises(QuantizationError, match="expected"):
        freeze_matrix(weights)
    with pytest.raises(QuantizationError, match="expected"):
        quantize_rows(weights)


@pytest.mark.parametrize("bits", [np.array([3], np.uint8), np.array([8, 8], np.uint8)])
def test_widths_that_are_not_stored(bits: np.ndarray) -> None:
    """A store reads at 0, 2, 4 and 8 bits, one width per channel."""
    with pytest.raises(QuantizationError, match="bits: expected"):
        freeze_matrix(np.ones((1, 3), np.float32)).codes_at(bits)


@pytest.mark.parametrize(
    "changes",
    [
        {"codes": np.full((1, 3), -128, np.int8)},
        {"codes": np.ones((1, 3), np.int16)},
        {"scales": np.ones((2, 1), np.float32)},
        {"scales": np.ones((3, 1), np.float64)},
        {"scales": np.full((3, 1), -1, np.float32)},
        {"scales": np.full((3, 1), np.nan, np.float32)},
        {"scales": np.full((3, 1), 2.0**120, np.float32)},
        {"scales": np.full((3, 1), 1e-39, np.float32)},
        {"multipliers": np.ones((2, 1), np.uint32)},
        {"multipliers": np.ones((3, 1), np.uint16)},
    ],
)
def test_stores_that_make_no_sense(changes: dict[str, np.ndarray]) -> None:
    """A store is refused when a shape, a type or a range is off."""
    matrix = freeze_matrix(np.ones((1, 3), np.float32))

    with pytest.raises(ConfigError, match="expected"):
        replace(matrix, **changes)
