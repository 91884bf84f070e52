# SPDX-License-Identifier: Apache-2.0
"""The bytes of plan version 2 and of version 1 of all else: may be added to, never changed.

Other languages test their readers and writers against the same literals. Changing one
is changing the format: bump a version and say so in docs/format.md and the changelog.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketrec.signing import SigningKey
from pocketrec_quantization.assignment import (
    Assignment,
    decode_assignment,
    encode_assignment,
)
from pocketrec_quantization.backbone import coded_layers
from pocketrec_quantization.bitpack import pack_codes, unpack_codes
from pocketrec_quantization.extract_vectors import ExtractCase, ExtractVectors
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import Codebook, ItemTable
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable
from pocketrec_quantization.manifest import (
    BackboneConfig,
    ExtractorInfo,
    ItemTableInfo,
    Manifest,
    PartInfo,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)
from pocketrec_quantization.plan import Plan, decode_plan, encode_plan, model_id, split_signature
from pocketrec_quantization.plan_json import plan_from_json, plan_to_json
from pocketrec_quantization.planners import sensitivity_from_bytes, sensitivity_to_bytes
from pocketrec_quantization.quantizer import FrozenMatrix
from pocketrec_quantization.vectors import TestVectors, VectorCase

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
DIGEST = bytes(range(32))
LAYERS = (LayerShape("a", 3, 4), LayerShape("b", 2, 8))

PLAN = Plan(
    model_id=model_id(DIGEST),
    levels=DEFAULT_LEVELS,
    layers=LAYERS,
    codes=np.array([1, 2, 3, 1, 2], np.uint8),
    budget_bytes=60,
    subject="",
    planner="global",
    version=0,
    issued_at_s=1_700_000_000,
    expires_at_s=0,
    key_id=b"",
)
PLAN_BYTES = bytes.fromhex(
    "504b525002003400"
    "0a10000102030405060708090a0b0c0d0e0f"
    "22070a016110031804"
    "22070a016210021808"
    "283c"
    "3a06676c6f62616c"
    "4880e2cfaa06"
    "7902"
)

KEY = SigningKey(DIGEST)
SIGNED_PLAN = replace(
    PLAN,
    subject="u-1",
    version=7,
    expires_at_s=1_700_604_800,
    key_id=bytes.fromhex("56475aa75463474c"),
)
SIGNED_PLAN_BYTES = bytes.fromhex(
    "504b525002004900"
    "0a10000102030405060708090a0b0c0d0e0f"
    "22070a016110031804"
    "22070a016210021808"
    "283c"
    "3203752d31"
    "3a06676c6f62616c"
    "4007"
    "4880e2cfaa06"
    "5080f524"
    "5a0856475aa75463474c"
    "7902"
    "bb49f756f842fbeb563e42288e169247896e969ac44ef73c7c56255df4623a56"
    "be9c6f6d89afc21fc6d99bfc0e16c15cf9d5875bc25afc1192b2f297c3c9870e"
)

ASSIGNMENT = Assignment(
    model_name="demo",
    device_id="d-1",
    bundle_digest=DIGEST,
    withdrawn=(b"\xff" * 32,),
    version=7,
    issued_at_s=1_700_000_000,
    expires_at_s=1_700_086_400,
    key_id=bytes.fromhex("56475aa75463474c"),
)
ASSIGNMENT_BYTES = bytes.fromhex(
    "504b524101006500"
    "0a0464656d6f"
    "1203642d31"
    "1a20000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "2220ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "2807"
    "3080e2cfaa06"
    "3880a305"
    "420856475aa75463474c"
    "a92e57f178565b2ab012b18e2f0dee015935561a4df3bcdcca71d4f8262f76a4"
    "85c1806adae21c22c94f2e4c46958368668e77582f758afe5b7438dfe6a7ae07"
)

SASREC_PLAN = replace(
    PLAN,
    levels=LevelTable((0, 2, 2, 4)),
    layers=coded_layers(
        BackboneConfig(
            kind="sasrec", embedding_dim=2, n_blocks=1, n_heads=1, window=5, ffn_multiplier=3
        )
    ),
    codes=np.array([1, 2, 3, 1, 2] * 3 + [3], np.uint8),
)
SASREC_PLAN_BYTES = bytes.fromhex(
    "504b525002003300"
    "0a10000102030405060708090a0b0c0d0e0f"
    "12060a0400020204"
    "1a0708011203020103"
    "283c"
    "3a06676c6f62616c"
    "4880e2cfaa06"
    "79e699e7"
)

MANIFEST = Manifest(
    model_name="demo",
    version=3,
    created_at_s=1_700_000_000,
    backbone=BackboneConfig(
        kind="sasrec", embedding_dim=4, n_blocks=1, n_heads=2, window=5, ffn_multiplier=2
    ),
    items=ItemTableInfo(n_items=2, n_rows=3, row_bits=8, version=1),
    layers=LAYERS,
    parts=(PartInfo(name="frozen", sha256=DIGEST, length_bytes=1000),),
    license="CC0-1.0",
    producer="pocketrec",
)
MANIFEST_BYTES = bytes.fromhex(
    "0801"
    "1a0464656d6f"
    "2003"
    "2880e2cfaa06"
    "32120a0673617372656310041801200228053002"
    "3a080802100318082001"
    "42070a016110031804"
    "42070a016210021808"
    "4a2d0a0666726f7a656e"
    "1220000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "18e807"
    "52074343302d312e30"
    "5a09706f636b6574726563"
)

CASER_MANIFEST = replace(
    MANIFEST,
    schema_minor=1,
    backbone=BackboneConfig(
        kind="caser", embedding_dim=4, window=5, max_height=3, n_horizontal=2, n_vertical=1
    ),
)
CASER_MANIFEST_BYTES = bytes.fromhex(
    "08011001"
    "1a0464656d6f"
    "2003"
    "2880e2cfaa06"
    "32110a05636173657210042805380340024801"
    "3a080802100318082001"
    "42070a016110031804"
    "42070a016210021808"
    "4a2d0a0666726f7a656e"
    "1220000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "18e807"
    "52074343302d312e30"
    "5a09706f636b6574726563"
)

FROZEN = FrozenModel(
    matrices={
        "a": FrozenMatrix(
            codes=np.array([[127, -64, 0], [1, 2, -3]], np.int8),
            scales=np.array([[1, 0.5], [0.25, 0.125], [0.0625, 0]], np.float32),
            multipliers=np.array([[516, 600], [3612, 4000]], np.uint16),
        )
    },
    dense={"a.bias": np.array([0.5, -1], np.float32)},
)
FROZEN_BYTES = (
    b"\x50\x01\0\0\0\0\0\0"
    b'{"__metadata__":{"format":"pocketrec.frozen","layers":"a","version":"1.0"},'
    b'"dense/a.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"scales/a":{"dtype":"F32","shape":[3,2],"data_offsets":[8,32]},'
    b'"multipliers/a":{"dtype":"U16","shape":[2,2],"data_offsets":[32,40]},'
    b'"codes/a":{"dtype":"I8","shape":[2,3],"data_offsets":[40,46]}}   '
    b"\0\0\0\x3f\0\0\x80\xbf"
    b"\0\0\x80\x3f\0\0\0\x3f\0\0\x80\x3e\0\0\0\x3e\0\0\x80\x3d\0\0\0\0"
    b"\x04\x02\x58\x02\x1c\x0e\xa0\x0f"
    b"\x7f\xc0\0\x01\x02\xfd"
)

ITEMS = ItemTable(
    codebooks=(
        Codebook(codes=np.array([[0, 0], [1, -2]], np.int8), scales=np.array([0, 0.5], np.float32)),
    ),
    row_of_item=np.array([0, 1, 1], np.int32),
    item_ids=("é", "b"),
    version=9,
)
ITEMS_BYTES = (
    b"\x88\x01\0\0\0\0\0\0"
    b'{"__metadata__":{"format":"pocketrec.items","table_version":"9","version":"1.0"},'
    b'"id_offsets":{"dtype":"I64","shape":[3],"data_offsets":[0,24]},'
    b'"row_of_item":{"dtype":"I32","shape":[3],"data_offsets":[24,36]},'
    b'"scales":{"dtype":"F32","shape":[2],"data_offsets":[36,44]},'
    b'"id_bytes":{"dtype":"U8","shape":[3],"data_offsets":[44,47]},'
    b'"rows":{"dtype":"I8","shape":[2,2],"data_offsets":[47,51]}}   '
    b"\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"
    b"\0\0\0\0\x01\0\0\0\x01\0\0\0"
    b"\0\0\0\0\0\0\0\x3f"
    b"\xc3\xa9b"
    b"\0\0\x01\xfe"
)

VECTORS = TestVectors(
    cases=(
        VectorCase(
            history=np.array([1, 2], np.int32),
            candidates=np.array([2], np.int32),
            scores=np.array([0.5], np.float32),
        ),
    ),
    tolerance={"numpy": 1e-6},
)
VECTORS_BYTES = (
    b"\x28\x01\0\0\0\0\0\0"
    b'{"__metadata__":{"format":"pocketrec.vectors","n_cases":"1","tolerance.numpy":"1e-06",'
    b'"version":"1.0"},'
    b'"candidates/0":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},'
    b'"history/0":{"dtype":"I32","shape":[2],"data_offsets":[4,12]},'
    b'"scores/0":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}     '
    b"\x02\0\0\0"
    b"\x01\0\0\0\x02\0\0\0"
    b"\0\0\0\x3f"
)

EXTRACT_VECTORS = ExtractVectors(
    cases=(ExtractCase(history=np.array([1, 2], np.int32), z=np.array([0.5, -1], np.float32)),),
    tolerance=1e-6,
)
EXTRACT_VECTORS_BYTES = (
    b"\xe0\0\0\0\0\0\0\0"
    b'{"__metadata__":{"format":"pocketrec.extract_vectors","n_cases":"1",'
    b'"tolerance":"1e-06","version":"1.0"},'
    b'"history/0":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},'
    b'"z/0":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}  '
    b"\x01\0\0\0\x02\0\0\0"
    b"\0\0\0\x3f\0\0\x80\xbf"
)

SENSITIVITY = np.array([[3, 2, 1]], np.float64)
SENSITIVITY_BYTES = (
    b"\x88\0\0\0\0\0\0\0"
    b'{"__metadata__":{"format":"pocketrec.sensitivity","version":"1.0"},'
    b'"sensitivity":{"dtype":"F64","shape":[1,3],"data_offsets":[0,24]}}   '
    b"\0\0\0\0\0\0\x08\x40\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\xf0\x3f"
)


def test_codes() -> None:
    """Five codes take two bytes, the first code in the lowest bits."""
    codes = np.array([1, 2, 3, 1, 2], np.uint8)

    assert pack_codes(codes) == b"\x79\x02"
    assert unpack_codes(b"\x79\x02", 5).tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("bits", "multiplier", "expected"),
    [
        (2, 516, "0" * 64 + "1" * 64),
        (
            4,
            3612,
            "0" * 10 + "1" * 18 + "2" * 18 + "3" * 18 + "4" * 18 + "5" * 18 + "6" * 18 + "7" * 10,
        ),
        (4, 65535, "01234567" + "7" * 120),
    ],
)
def test_nested_codes(bits: int, multiplier: int, expected: str) -> None:
    """What each 8-bit code of 0 to 127 reads as, and its negative likewise."""
    magnitudes = np.arange(128, dtype=np.int8)
    matrix = FrozenMatrix(
        codes=np.stack([magnitudes, -magnitudes]),
        scales=np.ones((3, 2), np.float32),
        multipliers=np.full((2, 2), multiplier, np.uint16),
    )

    positive, negative = matrix.codes_at(np.full(2, bits, np.uint8)).tolist()

    assert "".join(map(str, positive)) == expected
    assert negative == [-code for code in positive]


def test_unsigned_plan() -> None:
    """The plan container without a signature."""
    assert encode_plan(PLAN, None) == PLAN_BYTES
    assert decode_plan(PLAN_BYTES) == PLAN


def test_signed_plan() -> None:
    """The plan container with the Ed25519 signature of the key whose seed is 00 01 .. 1f."""
    signed, signature = split_signature(SIGNED_PLAN_BYTES)

    assert KEY.public.key_id == SIGNED_PLAN.key_id
    assert encode_plan(SIGNED_PLAN, KEY.sign) == SIGNED_PLAN_BYTES
    assert decode_plan(SIGNED_PLAN_BYTES) == SIGNED_PLAN
    assert signature is not None
    KEY.public.verify(signed, signature)


def test_plan_of_an_architecture() -> None:
    """SASRec's layers take three numbers; a level table is there when it is another one."""
    assert encode_plan(SASREC_PLAN, None) == SASREC_PLAN_BYTES
    assert decode_plan(SASREC_PLAN_BYTES) == SASREC_PLAN
    assert [layer.name for layer in decode_plan(SASREC_PLAN_BYTES).layers] == [
        f"blocks.0.{name}" for name in ("q", "k", "v", "o", "ffn1", "ffn2")
    ]


def test_plan_json() -> None:
    """The JSON twin of the unsigned plan."""
    document = {
        "schema": "pocketrec.plan/2",
        "model_id": "000102030405060708090a0b0c0d0e0f",
        "levels": [0, 2, 4, 8],
        "layers": [
            {"name": "a", "n_channels": 3, "n_elements": 4, "codes": "123"},
            {"name": "b", "n_channels": 2, "n_elements": 8, "codes": "12"},
        ],
        "budget_bytes": 60,
        "subject": "",
        "planner": "global",
        "version": 0,
        "issued_at_s": 1700000000,
        "expires_at_s": 0,
        "key_id": "",
    }

    assert plan_to_json(PLAN) == document
    assert plan_from_json(document) == PLAN


def test_manifest() -> None:
    """manifest.pb, and the bundle digest that follows from it."""
    digest = "4ea1c2d69148cc6874f74d737babf494bb8afb00f6a30292b4ac69674c0af225"

    assert encode_manifest(MANIFEST) == MANIFEST_BYTES
    assert decode_manifest(MANIFEST_BYTES) == MANIFEST
    assert manifest_digest(MANIFEST_BYTES).hex() == digest


def test_manifest_with_an_extractor() -> None:
    """A higher minor version and one more field at the end; nothing else moves."""
    manifest = replace(MANIFEST, extractor=ExtractorInfo(kind="gru", window=200), schema_minor=1)
    data = (
        b"\x08\x01\x10\x01"
        + MANIFEST_BYTES.removeprefix(b"\x08\x01")
        + b"\x62\x08\x0a\x03gru\x10\xc8\x01"
    )

    assert encode_manifest(manifest) == data
    assert decode_manifest(data) == manifest


def test_caser_manifest() -> None:
    """The manifest of a Caser: its own fields of the backbone, and minor version 1."""
    digest = "772551ecac95a1972302aa9cb583f72873a9b96eeb84a1c404a3bf08de81e7a9"

    assert encode_manifest(CASER_MANIFEST) == CASER_MANIFEST_BYTES
    assert decode_manifest(CASER_MANIFEST_BYTES) == CASER_MANIFEST
    assert manifest_digest(CASER_MANIFEST_BYTES).hex() == digest


def test_frozen_part() -> None:
    """The frozen part, its digest, and the weights it stands for."""
    read = FrozenModel.from_bytes(FROZEN_BYTES)

    assert FROZEN.to_bytes() == FROZEN_BYTES
    assert read.digest == hashlib.sha256(FROZEN_BYTES).digest()
    # 127 * 3612 / 65536 = 7.0, -64 * ... = -3.53; scale 1/4. 2 * 600 / 65536 rounds to 0.
    weights = read.adapt(np.array([4, 2], np.uint8))["a.weight"]
    assert weights.tolist() == [[1.75, -1.0, 0.0], [0.0, 0.0, 0.0]]


def test_assignment() -> None:
    """An assignment that takes one bundle back, signed with the seed 00 01 ... 1f."""
    assert encode_assignment(ASSIGNMENT, KEY.sign) == ASSIGNMENT_BYTES
    assert decode_assignment(ASSIGNMENT_BYTES) == ASSIGNMENT
    KEY.public.verify(ASSIGNMENT_BYTES[:-64], ASSIGNMENT_BYTES[-64:])


def test_items_part() -> None:
    """The item table part: two items that share a row."""
    read = ItemTable.from_bytes(ITEMS_BYTES)

    assert ITEMS.to_bytes() == ITEMS_BYTES
    assert read.item_ids == ("é", "b")
    assert read.embed(np.array([2])).tolist() == [[0.5, -1.0]]


def test_vectors_part() -> None:
    """The test vectors part."""
    assert VECTORS.to_bytes() == VECTORS_BYTES
    assert TestVectors.from_bytes(VECTORS_BYTES).cases[0].scores.tolist() == [0.5]


def test_extract_vectors_part() -> None:
    """The extractor's test vectors part."""
    assert EXTRACT_VECTORS.to_bytes() == EXTRACT_VECTORS_BYTES
    assert ExtractVectors.from_bytes(EXTRACT_VECTORS_BYTES).cases[0].z.tolist() == [0.5, -1.0]


def test_sensitivity_file() -> None:
    """The planner's sensitivities."""
    assert sensitivity_to_bytes(SENSITIVITY) == SENSITIVITY_BYTES
    assert sensitivity_from_bytes(SENSITIVITY_BYTES).tolist() == [[3.0, 2.0, 1.0]]


@pytest.mark.parametrize(
    ("title", "content"),
    [
        ("signed plan", SIGNED_PLAN_BYTES),
        ("assignment", ASSIGNMENT_BYTES),
        ("manifest", MANIFEST_BYTES),
        ("caser manifest", CASER_MANIFEST_BYTES),
        ("items", ITEMS_BYTES),
    ],
)
def test_documented_examples_are_these(title: str, content: bytes) -> None:
    """The worked examples of docs/format.md hold the golden bytes, annotated."""
    pattern = rf"```hex {re.escape(title)}\n(.*?)```"
    block = re.search(pattern, FORMAT.read_text("utf-8"), re.DOTALL)

    assert block is not None
    digits = [line.split("#")[0] for line in block[1].splitlines()]
    assert bytes.fromhex("".join(digits)) == content
