# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.signing import SigningKey
from pocketrec_proto.v1.artifacts_pb2 import Architecture, PlanHeader
from pocketrec_quantization.backbone import BackboneConfig, coded_layers
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.layers import LayerShape, LayerTable
from pocketrec_quantization.plan import PlanSizes, decode_plan, encode_plan, plan_sizes
from pocketrec_quantization.plan_layers import read_layers, write_layers
from pocketrec_quantization.testing import tiny_plan
from pocketrec_quantization.wire import layers_to_proto

DIGEST = bytes(range(32))
KEY = SigningKey(bytes(32))


def sasrec(dim: int, n_blocks: int, ffn_multiplier: int = 1) -> LayerTable:
    """Return the layers of a SASRec."""
    return coded_layers(
        BackboneConfig(
            kind="sasrec",
            embedding_dim=dim,
            n_blocks=n_blocks,
            n_heads=1,
            window=50,
            ffn_multiplier=ffn_multiplier,
        )
    )


def header_of(layers: LayerTable) -> PlanHeader:
    """Return a header that holds nothing but layers."""
    header = PlanHeader()
    write_layers(layers, header)
    return header


def signed_sizes(average_bits: float = 3.0, **changes: object) -> PlanSizes:
    """Measure a signed plan for 768 channels, as a server sends it to a known user."""
    layers = sasrec(64, 2)
    fields = {
        "subject": "u-7f3a9c1e52b804",
        "planner": "global",
        "budget_bytes": budget_bytes(layers, average_bits),
        "version": 7,
        "issued_at_s": 1_795_816_800,
        "expires_at_s": 1_795_816_800 + 7 * 86_400,
        "key_id": KEY.public.key_id,
    }
    data = encode_plan(tiny_plan(layers, DIGEST, **fields | changes), KEY.sign)
    assert len(decode_plan(data).subject) == 16
    return plan_sizes(data)


class TestArchitectures:
    @given(st.integers(1, 300), st.integers(1, 170), st.integers(1, 5))
    def test_any_sasrec_is_three_numbers(self, dim: int, n_blocks: int, wide: int) -> None:
        """Its dimensions, blocks and multiplier stand for the whole table."""
        layers = sasrec(dim, n_blocks, wide)

        header = header_of(layers)

        assert header.architecture.kind == Architecture.KIND_SASREC
        assert list(header.architecture.sizes) == [dim, n_blocks, wide]
        assert not header.layers
        if sum(layer.n_channels for layer in layers) <= 2**20:
            assert read_layers(header) == layers

    @pytest.mark.parametrize(
        "layers",
        [
            pytest.param((LayerShape("q", 4, 4),), id="one layer"),
            pytest.param((LayerShape("blocks.0.ffn1", 2, 4),), id="narrower than wide"),
            pytest.param(sasrec(4, 2)[:-1], id="a layer less"),
            pytest.param((*sasrec(4, 2), LayerShape("head", 4, 4)), id="a layer more"),
            pytest.param(sasrec(4, 2)[::-1], id="another order"),
            pytest.param(sasrec(4, 1) + sasrec(6, 2)[6:], id="blocks that differ"),
            pytest.param((LayerShape("query", 4, 4), *sasrec(4, 2)[1:]), id="another name"),
            pytest.param((LayerShape("blocks.0.q", 5, 4), *sasrec(4, 2)[1:]), id="another shape"),
        ],
    )
    def test_other_layers_are_spelled_out(self, layers: LayerTable) -> None:
        """What is not quite an architecture keeps its names and shapes."""
        header = header_of(layers)

        assert not header.HasField("architecture")
        assert list(header.layers) == layers_to_proto(layers)
        assert read_layers(header) == layers


class TestSizeOnTheWire:
    def test_a_users_plan_for_768_channels(self) -> None:
        """192 bytes of codes, and 151 around them, of which 64 are the signature."""
        sizes = signed_sizes()

        assert sizes == PlanSizes(header_bytes=87, payload_bytes=192, signature_bytes=64)
        assert sizes.header_bytes + sizes.signature_bytes <= 160

    @pytest.mark.parametrize("planner", ["global", "random", "uniform-8"])
    def test_there_is_room_for_growth(self, planner: str) -> None:
        """Two million versions, a budget of 8 bits and a month's life still fit into 160 bytes."""
        sizes = signed_sizes(
            8.0, planner=planner, version=2_000_000, expires_at_s=1_795_816_800 + 30 * 86_400
        )

        assert sizes.payload_bytes == 192
        assert sizes.header_bytes + sizes.signature_bytes <= 160
