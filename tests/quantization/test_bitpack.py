# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.bitpack import pack_codes, packed_size, unpack_codes

any_codes = arrays(np.uint8, st.integers(0, 70), elements=st.integers(0, 3))


def test_first_code_lies_in_the_lowest_bits() -> None:
    """Codes 1, 2, 3, 0 make 0b00_11_10_01, and the fifth starts the next byte."""
    packed = pack_codes(np.array([1, 2, 3, 0, 3], np.uint8))

    assert packed == bytes([0b00_11_10_01, 0b00_00_00_11])


@given(any_codes)
def test_unpacking_reverts_packing(codes: np.ndarray) -> None:
    """What was packed comes back, and takes ceil(C / 4) bytes."""
    packed = pack_codes(codes)

    assert len(packed) == packed_size(codes.size) == -(-codes.size // 4)
    np.testing.assert_array_equal(unpack_codes(packed, codes.size), codes)


@given(st.binary(max_size=20), st.integers(0, 80))
def test_packing_reverts_unpacking(data: bytes, n_codes: int) -> None:
    """Bytes are either refused or the only ones that stand for their codes."""
    try:
        codes = unpack_codes(data, n_codes)
    except MalformedArtifactError:
        return

    assert pack_codes(codes) == data


def test_bits_after_the_last_code_must_be_zero() -> None:
    """A set padding bit is refused, with its place in the artifact."""
    with pytest.raises(MalformedArtifactError) as caught:
        unpack_codes(b"\x55\x04", 5, offset=100)

    assert (caught.value.field, caught.value.offset) == ("codes", 101)


@pytest.mark.parametrize("n_bytes", [0, 1, 3])
def test_the_length_must_be_exact(n_bytes: int) -> None:
    """Neither more nor fewer bytes than five codes take are accepted."""
    with pytest.raises(MalformedArtifactError, match="expected 2 bytes for 5 codes"):
        unpack_codes(bytes(n_bytes), 5)


@pytest.mark.parametrize(
    "codes",
    [
        pytest.param(np.array([4], np.uint8), id="too large"),
        pytest.param(np.array([1], np.int64), id="wide integers"),
        pytest.param(np.array([[1]], np.uint8), id="two dimensions"),
    ],
)
def test_only_flat_2_bit_codes_are_packed(codes: np.ndarray) -> None:
    """Anything that would lose bits is refused."""
    with pytest.raises(ConfigError, match="codes: expected"):
        pack_codes(codes)
