# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.malformed.test_assignment_container import ASSIGNMENT, KEY

from pocketrec.errors import ConfigError
from pocketrec_quantization.assignment import decode_assignment, encode_assignment
from pocketrec_quantization.limits import MAX_ASSIGNMENT_BYTES, MAX_INTEGER

digests = st.binary(min_size=32, max_size=32).filter(lambda digest: digest != bytes(32))


class TestAssignment:
    @given(
        withdrawn=st.sets(digests, max_size=64),
        version=st.integers(1, MAX_INTEGER),
        issued_at_s=st.integers(0, 2**40),
        lifetime_s=st.integers(1, 2**40),
    )
    def test_round_trip(
        self, withdrawn: set[bytes], version: int, issued_at_s: int, lifetime_s: int
    ) -> None:
        """What is written is read, and fits the limit."""
        assignment = replace(
            ASSIGNMENT,
            withdrawn=tuple(sorted(withdrawn)),
            version=version,
            issued_at_s=issued_at_s,
            expires_at_s=issued_at_s + lifetime_s,
        )
        data = encode_assignment(assignment, KEY.sign)

        assert decode_assignment(data) == assignment
        assert len(data) <= MAX_ASSIGNMENT_BYTES

    def test_largest(self) -> None:
        """The largest assignment that there can be fits the limit."""
        assignment = replace(
            ASSIGNMENT,
            model_name="m" * 64,
            device_id="𝄞" * 64,
            withdrawn=tuple(bytes([1, number]) + bytes(30) for number in range(64)),
            version=MAX_INTEGER,
            issued_at_s=MAX_INTEGER - 1,
            expires_at_s=MAX_INTEGER,
        )

        assert len(encode_assignment(assignment, KEY.sign)) <= MAX_ASSIGNMENT_BYTES

    def test_signer(self) -> None:
        """A signature of another length is a mistake of the caller."""
        with pytest.raises(ConfigError, match="64 bytes, got 3"):
            encode_assignment(ASSIGNMENT, lambda _: b"sig")

    def test_refusals(self) -> None:
        """Impossible fields are refused when it is made."""
        with pytest.raises(ConfigError, match="other bundles"):
            replace(ASSIGNMENT, withdrawn=(ASSIGNMENT.bundle_digest,))
        with pytest.raises(ConfigError, match="version"):
            replace(ASSIGNMENT, version=0)
