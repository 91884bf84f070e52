# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec_quantization.bitpack import packed_size
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.limits import MAX_INTEGER
from pocketrec_quantization.plan import (
    Plan,
    check_applies,
    decode_plan,
    encode_plan,
    plan_message,
    plan_sizes,
    split_signature,
)
from pocketrec_quantization.testing import tiny_plan

DIGEST = bytes(range(32))
LAYERS = (LayerShape("a", 3, 4), LayerShape("b", 2, 8))
KEY_ID = bytes(8)


def sign(data: bytes) -> bytes:
    """Stand in for Ed25519, whose 64 bytes depend on every byte before them."""
    return hashlib.sha512(data).digest()


def encode(plan: Plan) -> bytes:
    """Encode a plan, signed if it names a key."""
    return encode_plan(plan, sign if plan.key_id else None)


class TestContainer:
    @given(st.from_type(Plan))
    def test_decoding_reverts_encoding(self, plan: Plan) -> None:
        """Every plan comes back as it was."""
        decoded = decode_plan(encode(plan))

        assert decoded == plan
        assert hash(decoded) == hash(plan)
        np.testing.assert_array_equal(decoded.widths, plan.levels.widths(plan.codes))

    @given(st.from_type(Plan))
    def test_parts_add_up(self, plan: Plan) -> None:
        """Header, 2-bit payload and signature are the whole container."""
        data = encode(plan)

        sizes = plan_sizes(data)

        assert sizes.total_bytes == len(data)
        assert sizes.payload_bytes == packed_size(plan.codes.size)
        assert sizes.signature_bytes == (64 if plan.key_id else 0)

    def test_the_signature_covers_everything_before_it(self) -> None:
        """The signer sees magic, versions, header and codes."""
        plan = tiny_plan(LAYERS, DIGEST, key_id=KEY_ID)

        signed, signature = split_signature(encode_plan(plan, sign))

        assert signed.startswith(b"PKRP")
        assert signature == sign(signed)

    def test_the_message_is_what_is_signed(self) -> None:
        """It can be had without a key, to compare plans by their bytes."""
        plan = tiny_plan(LAYERS, DIGEST, key_id=KEY_ID)

        assert plan_message(plan) == split_signature(encode_plan(plan, sign))[0]

    def test_unsigned_plans_have_no_signature(self) -> None:
        """Without a key id, the codes end the container."""
        data = encode_plan(tiny_plan(LAYERS, DIGEST), None)

        assert split_signature(data) == (data, None)

    @pytest.mark.parametrize(("key_id", "signer"), [(KEY_ID, None), (b"", sign)])
    def test_key_id_and_signer_come_together(self, key_id: bytes, signer: Any) -> None:
        """A key id without a signer, or the reverse, is a mistake."""
        with pytest.raises(ConfigError, match="expected a signer for a plan with a key_id"):
            encode_plan(tiny_plan(LAYERS, DIGEST, key_id=key_id), signer)

    def test_signatures_have_64_bytes(self) -> None:
        """Another kind of signature does not fit the container."""
        with pytest.raises(ConfigError, match="signer: expected 64 bytes, got 32"):
            encode_plan(tiny_plan(LAYERS, DIGEST, key_id=KEY_ID), lambda _: bytes(32))

    def test_headers_beyond_16_bits_are_not_written(self) -> None:
        """A thousand layers with long names do not fit, and the message says what to do."""
        layers = tuple(LayerShape(f"{index:064}", 1, 1) for index in range(1000))

        with pytest.raises(ConfigError, match="shorten the layer names"):
            encode_plan(tiny_plan(layers, DIGEST), None)


class TestFields:
    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"model_id": bytes(15)}, "model_id"),
            ({"key_id": bytes(7)}, "key_id"),
            ({"codes": np.ones(4, np.uint8)}, "codes: expected one for each of 5 channels"),
            ({"codes": np.zeros(5, np.uint8)}, "0 is reserved"),
            ({"codes": np.ones(5, np.int64)}, "expected uint8"),
            ({"layers": ()}, "layers"),
            ({"subject": "x" * 129}, "subject"),
            ({"subject": "two\nlines"}, "subject"),
            ({"planner": ""}, "planner"),
            ({"version": -1}, "version"),
            ({"version": 1.0}, "version"),
            ({"version": True}, "version"),
            ({"budget_bytes": MAX_INTEGER + 1}, "budget_bytes"),
            ({"issued_at_s": 10, "expires_at_s": 10}, "expires_at_s"),
        ],
    )
    def test_impossible_fields_are_refused(self, changes: dict[str, Any], complaint: str) -> None:
        """A plan cannot be built with a field out of its range."""
        with pytest.raises(ConfigError, match=complaint):
            replace(tiny_plan(LAYERS, DIGEST), **changes)

    def test_codes_cannot_be_changed(self) -> None:
        """A plan keeps its codes, also when they came as a writable array."""
        codes = np.ones(5, np.uint8)

        plan = tiny_plan(LAYERS, DIGEST, codes=codes)

        with pytest.raises(ValueError, match="read-only"):
            plan.codes[0] = 3
        codes[0] = 1  # the caller's own array stays writable

    def test_any_other_field_makes_another_plan(self) -> None:
        """Plans are equal when all they say is equal."""
        plan = tiny_plan(LAYERS, DIGEST)
        codes = np.array([1, 1, 1, 1, 1 + plan.codes[4] % 3], np.uint8)

        assert plan == tiny_plan(LAYERS, DIGEST)
        assert plan != replace(plan, version=plan.version + 1)
        assert plan != replace(plan, codes=codes)
        assert plan != "a plan"


class TestApplicability:
    PLAN = tiny_plan(LAYERS, DIGEST)

    def test_a_plan_applies_to_its_model(self) -> None:
        """Equal layers and an equal digest are all it takes."""
        check_applies(self.PLAN, LAYERS, DIGEST)

    @pytest.mark.parametrize(
        ("layers", "digest", "first"),
        [
            ((LAYERS[0], LayerShape("b", 2, 9)), bytes(32), "layer 1: the model has 'b' of 2 x 9"),
            ((LayerShape("x", 3, 4), LAYERS[1]), DIGEST, "layer 0: the model has 'x'"),
            (LAYERS[:1], DIGEST, "the model has 1 layers, the plan is for 2"),
            ((*LAYERS, LayerShape("c", 1, 1)), DIGEST, "the model has 3 layers"),
            (LAYERS, bytes(32), "the model has digest 0000"),
        ],
    )
    def test_the_first_mismatch_is_named(self, layers: Any, digest: bytes, first: str) -> None:
        """Another model is refused, and the message says where it differs first."""
        with pytest.raises(IncompatibleArtifactError, match=first):
            check_applies(self.PLAN, layers, digest)
