# SPDX-License-Identifier: Apache-2.0
"""The bytes of item tables over codebooks, and of manifests that name them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from tests.golden.test_golden import FORMAT, MANIFEST

from pocketrec_quantization.item_table import Codebook, ItemTable
from pocketrec_quantization.manifest import (
    CodebookInfo,
    ItemTableInfo,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)

CODEBOOKS_MANIFEST = replace(
    MANIFEST,
    schema_minor=2,
    items=ItemTableInfo(
        n_items=2,
        n_rows=5,
        row_bits=8,
        version=1,
        codebooks=(
            CodebookInfo(n_rows=2, bits=4, begin=0, width=3),
            CodebookInfo(n_rows=3, bits=8, begin=2, width=1),
        ),
    ),
)
CODEBOOKS_MANIFEST_BYTES = bytes.fromhex(
    "08011002"
    "1a0464656d6f"
    "2003"
    "2880e2cfaa06"
    "32120a0673617372656310041801200228053002"
    "3a1a0802100518082001"
    "2a060802100420032a080803100818022001"
    "42070a016110031804"
    "42070a016210021808"
    "4a2d0a0666726f7a656e"
    "1220000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "18e807"
    "52074343302d312e30"
    "5a09706f636b6574726563"
)

CODEBOOKS = ItemTable(
    codebooks=(
        Codebook(
            codes=np.array([[0, 0, 0], [1, -2, 7]], np.int8),
            scales=np.array([0.5], np.float32),
            bits=4,
        ),
        Codebook(
            codes=np.array([[0], [3], [-127]], np.int8),
            scales=np.array([0, 0.25, 1], np.float32),
            begin=2,
        ),
    ),
    row_of_item=np.array([[0, 0], [1, 1], [1, 2]], np.int32),
    item_ids=("é", "b"),
    version=9,
)
CODEBOOKS_BYTES = (
    b"\x28\x02\0\0\0\0\0\0"
    b'{"__metadata__":{"codebooks":"4:0:3,8:2:1","format":"pocketrec.items",'
    b'"table_version":"9","version":"2.0"},'
    b'"id_offsets":{"dtype":"I64","shape":[3],"data_offsets":[0,24]},'
    b'"scales/0":{"dtype":"F32","shape":[1],"data_offsets":[24,28]},'
    b'"scales/1":{"dtype":"F32","shape":[3],"data_offsets":[28,40]},'
    b'"codes/0":{"dtype":"U8","shape":[2,2],"data_offsets":[40,44]},'
    b'"codes/1":{"dtype":"I8","shape":[3,1],"data_offsets":[44,47]},'
    b'"id_bytes":{"dtype":"U8","shape":[3],"data_offsets":[47,50]},'
    b'"row_of_item/0":{"dtype":"U8","shape":[3],"data_offsets":[50,53]}}       '
    b"\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"
    b"\0\0\0\x3f"
    b"\0\0\0\0\0\0\x80\x3e\0\0\x80\x3f"
    b"\0\0\xe1\x07"
    b"\0\x03\x81"
    b"\xc3\xa9b"
    b"\0\x01\x01"
)


def test_manifest_with_codebooks() -> None:
    """A higher minor version, and the codebooks of the item table."""
    digest = "65c4dbbb0d1837427ae84ef2c180a073f1d448b8f1a57ef044d5ea7f0bb735be"

    assert encode_manifest(CODEBOOKS_MANIFEST) == CODEBOOKS_MANIFEST_BYTES
    assert decode_manifest(CODEBOOKS_MANIFEST_BYTES) == CODEBOOKS_MANIFEST
    assert manifest_digest(CODEBOOKS_MANIFEST_BYTES).hex() == digest
    assert ItemTableInfo.of(replace(CODEBOOKS, version=1)) == CODEBOOKS_MANIFEST.items


def test_items_part_of_codebooks() -> None:
    """The second version: 4 bits shared by both items, and 8 bits for each in one column."""
    read = ItemTable.from_bytes(CODEBOOKS_BYTES)

    assert CODEBOOKS.to_bytes() == CODEBOOKS_BYTES
    assert read.item_ids == ("é", "b")
    assert read.embed(np.array([1, 2])).tolist() == [[0.5, -1.0, 4.25], [0.5, -1.0, -123.5]]


@pytest.mark.parametrize(
    ("title", "content"),
    [
        ("manifest with codebooks", CODEBOOKS_MANIFEST_BYTES),
        ("items over codebooks", CODEBOOKS_BYTES),
    ],
)
def test_documented_examples_are_these(title: str, content: bytes) -> None:
    """The worked examples of docs/format.md hold the golden bytes, annotated."""
    pattern = rf"```hex {re.escape(title)}\n(.*?)```"
    block = re.search(pattern, FORMAT.read_text("utf-8"), re.DOTALL)

    assert block is not None
    digits = [line.split("#")[0] for line in block[1].splitlines()]
    assert bytes.fromhex("".join(digits)) == content
