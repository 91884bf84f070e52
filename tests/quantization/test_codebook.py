# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_quantization.codebook import Codebook

BYTES = Codebook(
    codes=np.array([[0, 0, 0], [1, -2, 127]], np.int8), scales=np.array([0, 0.5], np.float32)
)
NIBBLES = Codebook(
    codes=np.array([[0, 0, 0], [1, -2, 7]], np.int8),
    scales=np.array([0.5], np.float32),
    bits=4,
    begin=2,
)


def test_rows_stand_for_code_times_scale() -> None:
    """By hand, at both widths, with a scale per row and one for all."""
    assert BYTES.embeddings(np.array([1, 0])).tolist() == [[0.5, -1, 63.5], [0, 0, 0]]
    assert NIBBLES.embeddings(np.array([0, 1])).tolist() == [[0, 0, 0], [0.5, -1, 3.5]]
    assert (NIBBLES.begin, NIBBLES.end, NIBBLES.width, NIBBLES.n_rows) == (2, 5, 3, 2)


def test_four_bits_are_held_packed() -> None:
    """Three codes take two bytes, given either way."""
    again = replace(NIBBLES, codes=NIBBLES.codes)

    assert NIBBLES.codes.tolist() == again.codes.tolist() == [[0, 0], [0xE1, 0x07]]
    assert NIBBLES.n_bytes == 2 * 2 + 4
    assert BYTES.n_bytes == 2 * 3 + 2 * 4


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_rows_use_the_whole_range(bits: int) -> None:
    """A row's largest entry has the largest code, and row 0 becomes padding."""
    rows = np.array([[3, 3], [1, -1], [0, 0]], np.float32)

    codebook = Codebook.from_rows(rows, bits=bits)

    assert codebook.embeddings(np.arange(3)).tolist() == [[0, 0], [1, -1], [0, 0]]
    assert codebook.codes_of(np.array([1])).max() == 2 ** (bits - 1) - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"codes": np.zeros((2, 3), np.int16)},
        {"codes": np.zeros((2, 3), np.uint8)},
        {"codes": np.zeros(3, np.int8)},
        {"codes": np.zeros((2, 0), np.int8), "width": 0},
        {"codes": np.zeros((1, 3), np.int8), "scales": np.zeros(1, np.float32)},
        {"codes": np.ones((2, 3), np.int8)},
        {"codes": np.array([[0, 0, 0], [0, 0, -128]], np.int8)},
        {"codes": np.array([[0, 0, 0], [0, 0, 8]], np.int8), "bits": 4},
        {"bits": 2},
        {"begin": -1},
        {"begin": 65534},
        {"width": 2},
        {"scales": np.ones(3, np.float32)},
        {"scales": np.ones(2, np.float64)},
        {"scales": np.array([0, np.inf], np.float32)},
        {"scales": np.array([0, -1], np.float32)},
    ],
)
def test_codebooks_that_make_no_sense(changes: dict[str, Any]) -> None:
    """A codebook is refused when its fields do not fit together."""
    with pytest.raises(ConfigError, match=r": "):
        replace(BYTES, **changes)


@pytest.mark.parametrize(
    "packed",
    [[[0, 0], [0x08, 0]], [[0, 0], [0x80, 0]], [[0, 0], [1, 0x17]], [[1, 0], [1, 0]], [[0], [1]]],
)
def test_packed_rows_that_make_no_sense(packed: list[list[int]]) -> None:
    """No -8, nothing after the last code, zeros in row 0, rows of the right length."""
    with pytest.raises(ConfigError, match="codes: expected"):
        replace(NIBBLES, codes=np.array(packed, np.uint8))


def test_other_widths_are_not_quantized_for() -> None:
    """Rows have 4 or 8 bits."""
    with pytest.raises(ConfigError, match="bits: expected"):
        Codebook.from_rows(np.ones((2, 2), np.float32), bits=2)
