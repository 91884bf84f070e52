# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.manifest import (
    CodebookInfo,
    ItemTableInfo,
    PartInfo,
    decode_manifest,
    encode_manifest,
    schema_minor_of,
)
from pocketrec_quantization.testing import (
    TABLE_KINDS,
    TINY_CASER,
    TINY_CONFIG,
    random_table,
    tiny_manifest,
)

PART = PartInfo(name="frozen", sha256=bytes(32), length_bytes=1)
MANIFEST = replace(tiny_manifest(), parts=(PART,))
lengths = st.integers(1, 2**31)
parts = st.lists(
    st.builds(
        PartInfo,
        name=st.from_regex(r"[a-z][a-z.]{0,9}", fullmatch=True),
        sha256=st.binary(min_size=32, max_size=32),
        length_bytes=lengths,
    ),
    max_size=5,
    unique_by=lambda part: part.name,
)


@given(parts, st.integers(0, 2**53 - 1), st.text("aZ é漢", max_size=20))
def test_decoding_reverts_encoding(found: list[PartInfo], version: int, license_: str) -> None:
    """A manifest comes back as it was, its parts sorted by name."""
    manifest = replace(MANIFEST, parts=tuple(found), version=version, license=license_)

    decoded = decode_manifest(encode_manifest(manifest))

    by_name = tuple(sorted(found, key=lambda part: part.name))
    assert decoded == replace(manifest, parts=by_name)


def test_parts_are_found_by_name() -> None:
    """A part that is not there is refused with the names of those that are."""
    assert MANIFEST.part("frozen") == PART
    with pytest.raises(IncompatibleArtifactError, match="has no part 'extract', only frozen"):
        MANIFEST.part("extract")


def test_only_the_known_major_version_is_written() -> None:
    """This release does not pretend to write another one's format."""
    with pytest.raises(ConfigError, match="schema_major"):
        encode_manifest(replace(MANIFEST, schema_major=2))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_name": ""}, "model_name"),
        ({"version": -1}, "version"),
        ({"layers": ()}, "layers"),
        ({"license": "x" * 1025}, "license"),
        ({"producer": "a\tb"}, "producer"),
        ({"parts": (PART, PART)}, "a name occurs twice"),
        (
            {"parts": tuple(replace(PART, name=f"part-{i}") for i in range(65))},
            "at most 64, got 65",
        ),
    ],
)
def test_impossible_manifests_are_refused(changes: dict[str, Any], complaint: str) -> None:
    """A manifest cannot be built with a field out of its range."""
    with pytest.raises(ConfigError, match=complaint):
        replace(MANIFEST, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"name": "../x"}, {"sha256": bytes(31)}, {"length_bytes": 0}, {"length_bytes": 2**31 + 1}],
)
def test_impossible_parts_are_refused(changes: dict[str, Any]) -> None:
    """A part has a plain name, a SHA-256 and 1 byte to 2 GiB."""
    with pytest.raises(ConfigError, match="expected"):
        replace(PART, **changes)


@pytest.mark.parametrize("changes", [{"n_items": 0}, {"n_rows": 1}, {"row_bits": 4}])
def test_impossible_item_tables_are_refused(changes: dict[str, Any]) -> None:
    """There is at least one item, one row beside padding, and rows have 8 bits."""
    with pytest.raises(ConfigError, match="expected"):
        replace(ItemTableInfo(n_items=1, n_rows=2, row_bits=8, version=0), **changes)


class TestCodebooks:
    INFO = CodebookInfo(n_rows=3, bits=4, begin=0, width=4)
    ITEMS = ItemTableInfo(n_items=5, n_rows=3, row_bits=8, version=1, codebooks=(INFO,))

    @pytest.mark.parametrize("kind", TABLE_KINDS)
    def test_a_table_tells_them(self, kind: str) -> None:
        """Only one plain codebook goes without saying, and without a newer minor version."""
        table = random_table(kind)
        info = ItemTableInfo.of(table)
        is_plain = kind == "shared 8"

        manifest = replace(
            MANIFEST, items=info, schema_minor=schema_minor_of(TINY_CONFIG, None, info)
        )

        assert decode_manifest(encode_manifest(manifest)) == manifest
        assert manifest.schema_minor == (0 if is_plain else 2)
        assert [each.bits for each in info.codebooks] == (
            [] if is_plain else [each.bits for each in table.codebooks]
        )

    def test_they_say_that_they_are_newer(self) -> None:
        """Readers of 1.1 do not look for codebooks; what has them says so."""
        with pytest.raises(ConfigError, match=r"at least 2 for .* and codebooks"):
            replace(MANIFEST, items=self.ITEMS, schema_minor=1)

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"n_rows": 1}, "n_rows"),
            ({"bits": 2}, "bits"),
            ({"begin": 65533}, "begin"),
            ({"width": 0}, "width"),
        ],
    )
    def test_impossible_ones_are_refused(self, changes: dict[str, Any], complaint: str) -> None:
        """A codebook has rows of 4 or 8 bits over columns that there may be."""
        with pytest.raises(ConfigError, match=rf"codebook\.{complaint}: expected"):
            replace(self.INFO, **changes)

    def test_their_rows_are_all_rows(self) -> None:
        """What is said twice must agree, and there is a limit."""
        with pytest.raises(ConfigError, match="n_rows: expected 3"):
            replace(self.ITEMS, n_rows=4)
        with pytest.raises(ConfigError, match="at most 256, got 257"):
            replace(self.ITEMS, codebooks=(self.INFO,) * 257)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": "gru4rec"}, "kind: expected one of"),
        ({"n_heads": 3}, "n_heads: expected a divisor"),
        ({"window": 0}, "window"),
        ({"n_blocks": 2**17}, "n_blocks"),
        ({"n_vertical": 1}, "n_vertical: expected 0..0"),
    ],
)
def test_impossible_backbones_are_refused(changes: dict[str, Any], complaint: str) -> None:
    """An architecture is known by name, and its heads divide its dimensions."""
    with pytest.raises(ConfigError, match=complaint):
        replace(TINY_CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"max_height": 6}, "max_height: expected at most the window 5, got 6"),
        ({"max_height": 0}, "max_height"),
        ({"n_horizontal": 0}, "n_horizontal"),
        ({"n_vertical": 0}, "n_vertical"),
        ({"n_heads": 2}, "n_heads: expected 0..0"),
    ],
)
def test_impossible_casers_are_refused(changes: dict[str, Any], complaint: str) -> None:
    """A filter fits into the window, there are some of each sort, and no heads."""
    with pytest.raises(ConfigError, match=complaint):
        replace(TINY_CASER, **changes)


def test_a_caser_says_that_it_is_newer() -> None:
    """Readers of 1.0 would take its fields for damage; 1.1 tells them to update."""
    manifest = tiny_manifest(TINY_CASER)

    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert (manifest.schema_minor, MANIFEST.schema_minor) == (1, 0)
    with pytest.raises(ConfigError, match=r"schema_minor: expected at least 1 for .* 'caser'"):
        replace(manifest, schema_minor=0)


def test_a_caser_knows_its_tensors() -> None:
    """Horizontal filters by height, vertical ones, the last layer; only biases are dense."""
    layers, dense = coded_layers(TINY_CASER), dense_shapes(TINY_CASER)

    assert [(layer.name, layer.n_channels, layer.n_elements) for layer in layers] == [
        ("horizontal.1", 3, 4),
        ("horizontal.2", 3, 8),
        ("horizontal.3", 3, 12),
        ("vertical", 2, 5),
        ("fc", 4, 2 * 4 + 3 * 3),
    ]
    assert dense == {f"{layer.name}.bias": (layer.n_channels,) for layer in layers}


def test_a_backbone_knows_its_tensors() -> None:
    """Six coded matrices per block in plan order, and everything else dense."""
    config = BackboneConfig(
        kind="sasrec", embedding_dim=8, n_blocks=1, n_heads=2, window=5, ffn_multiplier=4
    )

    layers, dense = coded_layers(config), dense_shapes(config)

    shapes = [(layer.name, layer.n_channels, layer.n_elements) for layer in layers]
    assert shapes == [
        ("blocks.0.q", 8, 8),
        ("blocks.0.k", 8, 8),
        ("blocks.0.v", 8, 8),
        ("blocks.0.o", 8, 8),
        ("blocks.0.ffn1", 32, 8),
        ("blocks.0.ffn2", 8, 32),
    ]
    assert dense["blocks.0.ffn1.bias"] == (32,)
    assert dense["blocks.0.relative_bias"] == (2, 5)
    assert len(dense) == 4 + 6 + 1 + 2
