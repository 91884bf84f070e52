# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketrec.errors import ConfigError
from pocketrec_quantization.nibbles import pack_nibbles, packed_width, unpack_nibbles


def test_the_first_code_lies_in_the_lower_half() -> None:
    """By hand: 1 and -2, then 7 alone in its byte."""
    packed = pack_nibbles(np.array([[1, -2, 7], [0, 0, -7]], np.int8))

    assert packed.tolist() == [[0xE1, 0x07], [0x00, 0x09]]


@given(
    hnp.arrays(
        np.int8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-7, 7)
    )
)
def test_what_was_packed_is_unpacked(codes: np.ndarray) -> None:
    """Rows of any length come back, and take half a byte per code."""
    packed = pack_nibbles(codes)

    assert packed.shape == (len(codes), packed_width(codes.shape[1]))
    np.testing.assert_array_equal(unpack_nibbles(packed, codes.shape[1]), codes)


@pytest.mark.parametrize(
    "codes",
    [
        np.array([[8]], np.int8),
        np.array([[-8]], np.int8),
        np.array([[1]], np.int16),
        np.array([1], np.int8),
    ],
)
def test_what_is_no_code_is_refused(codes: np.ndarray) -> None:
    """Codes are symmetric, and a matrix of int8."""
    with pytest.raises(ConfigError, match="codes: expected"):
        pack_nibbles(codes)
