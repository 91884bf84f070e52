# SPDX-License-Identifier: Apache-2.0
"""Abuses of what the tensors of a part may hold; see README.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError
from pocketrec_quantization.bundle import FROZEN, ITEMS, VECTORS
from pocketrec_quantization.frozen import FROZEN_KIND, FrozenModel
from pocketrec_quantization.item_table import ITEMS_KIND, ItemTable
from pocketrec_quantization.item_table_file import CODEBOOKS_VERSION
from pocketrec_quantization.planners import (
    SENSITIVITY_KIND,
    sensitivity_from_bytes,
    sensitivity_to_bytes,
)
from pocketrec_quantization.tensors import TensorReader, write_tensors
from pocketrec_quantization.testing import random_table, tiny_parts
from pocketrec_quantization.vectors import VECTORS_KIND, TestVectors

PARTS = tiny_parts()
READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "frozen": (FrozenModel.from_bytes, PARTS[FROZEN]),
    "items": (ItemTable.from_bytes, PARTS[ITEMS]),
    "codebooks": (ItemTable.from_bytes, random_table("corrected").to_bytes()),
    "vectors": (TestVectors.from_bytes, PARTS[VECTORS]),
    "sensitivity": (sensitivity_from_bytes, sensitivity_to_bytes(np.zeros((2, 3)))),
}

FROZEN_TENSORS = {
    "codes/a": np.array([[1, -127]], np.int8),
    "scales/a": np.ones((3, 1), np.float32),
    "multipliers/a": np.ones((2, 1), np.uint16),
    "dense/a.bias": np.ones(1, np.float32),
}
ITEMS_TENSORS = {
    "rows": np.array([[0], [1], [2]], np.int8),
    "scales": np.ones(3, np.float32),
    "row_of_item": np.array([0, 1, 2], np.int32),
    "id_bytes": np.frombuffer(b"abc", np.uint8),
    "id_offsets": np.array([0, 1, 3], np.int64),
}
CODEBOOKS_TENSORS = {
    "codes/0": np.array([[0, 0], [0x21, 0x07]], np.uint8),
    "scales/0": np.ones(1, np.float32),
    "row_of_item/0": np.array([0, 1, 1], np.uint8),
    "codes/1": np.array([[0], [1], [2]], np.int8),
    "scales/1": np.ones(3, np.float32),
    "id_bytes": np.frombuffer(b"abc", np.uint8),
    "id_offsets": np.array([0, 1, 3], np.int64),
}
VECTORS_TENSORS = {
    "history/0": np.array([1], np.int32),
    "candidates/0": np.array([1, 2], np.int32),
    "scores/0": np.ones(2, np.float32),
}


def frozen(tensors: dict[str, Any] | None = None, layers: str = "a") -> bytes:
    """Write a frozen part without any of the writer's checks; None drops a tensor."""
    return _write(FROZEN_KIND, FROZEN_TENSORS | (tensors or {}), {"layers": layers})


def items(tensors: dict[str, Any] | None = None, table_version: str = "1") -> bytes:
    """Write an item table part without any of the writer's checks."""
    metadata = {"table_version": table_version}
    return _write(ITEMS_KIND, ITEMS_TENSORS | (tensors or {}), metadata)


def codebooks(tensors: dict[str, Any] | None = None, codebooks: str = "4:0:3,8:1:1") -> bytes:
    """Write an item table part of version 2 without any of the writer's checks."""
    present = {
        name: array
        for name, array in (CODEBOOKS_TENSORS | (tensors or {})).items()
        if array is not None
    }
    metadata = {"table_version": "1", "codebooks": codebooks}
    return write_tensors(present, kind=ITEMS_KIND, metadata=metadata, version=CODEBOOKS_VERSION)


def vectors(tensors: dict[str, Any] | None = None, **metadata: str) -> bytes:
    """Write a test vectors part without any of the writer's checks."""
    texts = {"n_cases": "1", "tolerance.numpy": "1e-06"}
    texts |= {name.replace("__", "."): text for name, text in metadata.items()}
    return _write(VECTORS_KIND, VECTORS_TENSORS | (tensors or {}), texts)


def _write(kind: str, tensors: dict[str, Any], metadata: dict[str, str]) -> bytes:
    present = {name: array for name, array in tensors.items() if array is not None}
    return write_tensors(present, kind=kind, metadata=metadata)


def test_the_honest_parts_are_accepted() -> None:
    """What the abuses start from are parts."""
    FrozenModel.from_bytes(frozen())
    ItemTable.from_bytes(items())
    ItemTable.from_bytes(codebooks())
    TestVectors.from_bytes(vectors())


@pytest.mark.parametrize("kind", READERS)
def test_truncated_anywhere(kind: str) -> None:
    """No prefix of a part is a part."""
    read, data = READERS[kind]
    step = max(1, len(data) // 500)  # every offset of a small part, 500 of a large one
    read(data)

    for length in [*range(0, len(data), step), len(data) - 1]:
        with pytest.raises(MalformedArtifactError):
            read(data[:length])


@pytest.mark.parametrize("kind", READERS)
def test_trailing_bytes(kind: str) -> None:
    """Nothing may follow."""
    read, data = READERS[kind]

    with pytest.raises(MalformedArtifactError, match="data at byte"):
        read(data + b"\0")


@pytest.mark.parametrize("kind", READERS)
def test_unknown_major_version(kind: str) -> None:
    """A part from the future is refused with both versions."""
    read, data = READERS[kind]

    with pytest.raises(IncompatibleArtifactError, match=r"version 9\.0, .* reads 1\.x"):
        read(re.sub(rb'"version":"[12]\.0"', b'"version":"9.0"', data))


@pytest.mark.parametrize("kind", READERS)
def test_another_part(kind: str) -> None:
    """A part in the place of another is refused by its kind."""
    read, _ = READERS[kind]
    others = [data for other, data in READERS.values() if other != read]
    named = "items" if kind == "codebooks" else kind

    for data in others:
        with pytest.raises(MalformedArtifactError, match=f"format at byte 8: expected .*{named}"):
            read(data)


@pytest.mark.parametrize(
    ("tensors", "field"),
    [
        ({"codes/a": np.array([[-128]], np.int8)}, "a"),
        ({"codes/a": np.ones((1, 2), np.uint8)}, "codes/a"),
        ({"codes/a": np.ones((2, 2), np.int8)}, "scales/a"),
        ({"codes/a": np.ones(2, np.int8)}, "codes/a"),
        ({"codes/a": None}, "codes/a"),
        ({"scales/a": None}, "scales/a"),
        ({"scales/a": np.ones((2, 1), np.float32)}, "scales/a"),
        ({"scales/a": np.ones((3, 1), np.float64)}, "scales/a"),
        ({"scales/a": np.full((3, 1), -1, np.float32)}, "a"),
        ({"scales/a": np.full((3, 1), np.nan, np.float32)}, "a"),
        ({"scales/a": np.full((3, 1), np.inf, np.float32)}, "a"),
        ({"scales/a": np.full((3, 1), 2.0**120, np.float32)}, "a"),
        ({"scales/a": np.full((3, 1), 2.0**-127, np.float32)}, "a"),
        ({"multipliers/a": None}, "multipliers/a"),
        ({"multipliers/a": np.ones((2, 1), np.int32)}, "multipliers/a"),
        ({"dense/a.bias": np.full(1, np.nan, np.float32)}, "frozen"),
        ({"dense/a.bias": np.ones(1, np.float64)}, "dense/a.bias"),
        ({"dense/x/y": np.ones(1, np.float32)}, "frozen"),
        ({"codes/b": np.ones((1, 1), np.int8)}, "codes/b"),
        ({"other": np.ones(1, np.int8)}, "other"),
    ],
)
def test_frozen_parts_that_make_no_sense(tensors: dict[str, Any], field: str) -> None:
    """A store that could not be read the same everywhere is refused."""
    with pytest.raises(MalformedArtifactError) as caught:
        FrozenModel.from_bytes(frozen(tensors))

    assert caught.value.field == field


@pytest.mark.parametrize("layers", ["", "a,a", "a,", ",a", "a,b", "b", "x" * 65, "a, b", "a\n"])
def test_frozen_parts_with_other_layers(layers: str) -> None:
    """Every listed layer is there once, and no other."""
    with pytest.raises(MalformedArtifactError):
        FrozenModel.from_bytes(frozen(layers=layers))


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"id_offsets": np.array([0, 2, 1], np.int64)}, "id_offsets"),
        ({"id_offsets": np.array([0, 1, 4], np.int64)}, "id_offsets"),
        ({"id_offsets": np.array([1, 2, 3], np.int64)}, "id_offsets"),
        ({"id_offsets": np.array([0, 0, 3], np.int64)}, "id_offsets"),
        ({"id_offsets": np.array([0, 3], np.int64)}, "row_of_item"),
        (
            {
                "id_offsets": np.array([0, 2**63 - 1, -(2**63), 3], np.int64),
                "row_of_item": np.array([0, 1, 1, 1], np.int32),
            },
            "id_offsets",
        ),
        ({"id_bytes": np.frombuffer(b"a\xff\xfe", np.uint8)}, "id_bytes: expected UTF-8"),
        ({"id_bytes": np.frombuffer(b"\xc3\xa9b", np.uint8)}, "id_bytes: expected UTF-8"),
        (
            {
                "id_bytes": np.frombuffer(b"aa", np.uint8),
                "id_offsets": np.array([0, 1, 2], np.int64),
            },
            "an id occurs twice",
        ),
        (
            {
                "id_bytes": np.full(258, ord("a"), np.uint8),
                "id_offsets": np.array([0, 1, 258], np.int64),
            },
            "1..256 UTF-8 bytes",
        ),
        ({"row_of_item": np.array([0, 1, 3], np.int32)}, "row_of_item"),
        ({"row_of_item": np.array([0, 1, 0], np.int32)}, "row_of_item"),
        ({"row_of_item": np.array([0, 1, -1], np.int32)}, "row_of_item"),
        ({"row_of_item": np.array([2, 1, 1], np.int32)}, "row_of_item"),
        ({"rows": np.array([[1], [1], [2]], np.int8)}, "zeros in row 0"),
        ({"rows": np.array([[0], [1], [-128]], np.int8)}, "-127..127"),
        ({"rows": np.array([[0]], np.int8), "scales": np.ones(1, np.float32)}, "rows"),
        ({"scales": np.ones(2, np.float32)}, "scales"),
        ({"scales": np.full(3, np.nan, np.float32)}, "scales"),
        ({"extra": np.ones(1, np.int8)}, "extra"),
    ],
)
def test_item_tables_that_make_no_sense(tensors: dict[str, Any], complaint: str) -> None:
    """Ids, rows and the map between them must fit together."""
    with pytest.raises(MalformedArtifactError, match=complaint):
        ItemTable.from_bytes(items(tensors))


def test_more_ids_than_a_catalogue_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted, and their lengths looked at, before any of them is decoded."""
    monkeypatch.setattr("pocketrec_quantization.item_ids.MAX_ITEMS", 1)
    two = {"id_bytes": np.frombuffer(b"\xff\xff", np.uint8), "id_offsets": np.arange(3)}

    with pytest.raises(MalformedArtifactError, match=r"id_offsets: expected 1\.\.1 ids, got 2"):
        ItemTable.from_bytes(items(two))


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"codes/0": np.array([[0, 0], [0x21, 0x17]], np.uint8)}, "codes/0.*after the last code"),
        ({"codes/0": np.array([[0, 0], [0x81, 0x07]], np.uint8)}, "codes/0.*got -8"),
        ({"codes/0": np.array([[1, 0], [0x21, 0x07]], np.uint8)}, "codes/0.*zeros in row 0"),
        ({"codes/0": np.zeros((2, 3), np.uint8)}, "codes/0"),
        ({"codes/0": np.zeros((2, 2), np.int8)}, "codes/0"),
        ({"codes/0": np.zeros((1, 2), np.uint8)}, "codes/0.*padding row"),
        ({"codes/0": None}, "codes/0"),
        ({"codes/1": np.array([[0], [1], [-128]], np.int8)}, "codes/1.*got -128"),
        ({"codes/1": np.zeros((3, 2), np.int8)}, "codes/1"),
        ({"scales/1": np.ones(2, np.float32)}, "scales: expected float32"),
        ({"scales/1": np.full(3, np.inf, np.float32)}, "scales: expected zero or"),
        ({"scales/1": None}, "scales/1"),
        ({"row_of_item/0": None}, "row_of_item: expected row numbers"),
        ({"row_of_item/0": np.array([0, 1, 1], np.uint16)}, "row_of_item/0"),
        ({"row_of_item/0": np.array([0, 1], np.uint8)}, "row_of_item/0"),
        ({"row_of_item/0": np.array([0, 1, 0], np.uint8)}, "row_of_item: expected 0 for padding"),
        ({"row_of_item/0": np.array([1, 1, 1], np.uint8)}, "row_of_item: expected 0 for padding"),
        ({"row_of_item/0": np.array([0, 1, 2], np.uint8)}, "row_of_item: expected 0 for padding"),
        ({"row_of_item/1": np.array([0, 1, 2], np.uint8)}, "row_of_item/1.*none where item i"),
        ({"row_of_item/1": np.array([0, 1, 3], np.uint8)}, "row_of_item: expected 0 for padding"),
        ({"row_of_item/2": np.array([0, 1, 1], np.uint8)}, "row_of_item/2.*unexpected"),
        ({"rows": np.zeros((3, 1), np.int8)}, "rows.*unexpected"),
        ({"id_bytes": np.frombuffer(b"a\xff\xfe", np.uint8)}, "id_bytes: expected UTF-8"),
    ],
)
def test_codebooks_that_make_no_sense(tensors: dict[str, Any], complaint: str) -> None:
    """Codes, scales and row numbers must fit the codebooks that are declared."""
    with pytest.raises(MalformedArtifactError, match=complaint):
        ItemTable.from_bytes(codebooks(tensors))


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "4:0:3",
        "4:0:3,8:1:1,",
        "4:0:3;8:1:1",
        "2:0:3,8:1:1",
        "4:0:03,8:1:1",
        "4:0:0,8:1:1",
        "4:-0:3,8:1:1",
        "4:0:3,8:4:1",
        "4:0:3,8:65536:1",
        "4:0:4,8:1:1,8:1:1",
        ",".join(["4:0:3"] * 257),
        "4:0:3,8:1:99999999999999999999",
    ],
)
def test_codebooks_that_are_declared_in_vain(declared: str) -> None:
    """Every codebook is declared, in one way, over columns that leave no gap."""
    with pytest.raises(MalformedArtifactError):
        ItemTable.from_bytes(codebooks(codebooks=declared))


def test_a_plain_table_in_the_second_version() -> None:
    """What version 1 can hold has one encoding."""
    tensors = {name: None for name in CODEBOOKS_TENSORS if name.endswith("/0")} | {
        f"{name}/0": CODEBOOKS_TENSORS[f"{name}/1"] for name in ("codes", "scales")
    }
    tensors |= dict.fromkeys(("codes/1", "scales/1"))

    with pytest.raises(MalformedArtifactError, match=r"expected this table in version 1\.0"):
        ItemTable.from_bytes(codebooks(tensors, "8:0:1"))


def test_readers_of_the_first_version() -> None:
    """They are told to update, and do not take the tensors for something else."""
    with pytest.raises(IncompatibleArtifactError, match=r"version 2\.0, .* reads 1\.x"):
        TensorReader(codebooks(), kind=ITEMS_KIND)


@pytest.mark.parametrize("version", ["", "-1", "1.0", "01", str(2**53), "1" * 5000])
def test_item_tables_of_no_version(version: str) -> None:
    """The table's version is a plain number of at most 53 bits."""
    with pytest.raises(MalformedArtifactError, match="table_version"):
        ItemTable.from_bytes(items(table_version=version))


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({}, {"n_cases": "0"}),
        ({}, {"n_cases": "2"}),
        ({}, {"n_cases": "65"}),
        ({}, {"n_cases": str(2**53 - 1)}),
        ({"history/1": np.ones(1, np.int32)}, {}),
        ({"history/0": np.array([-1], np.int32)}, {}),
        ({"history/0": np.array([1], np.int64)}, {}),
        ({"scores/0": np.ones(3, np.float32)}, {}),
        ({"scores/0": np.array([1, np.inf], np.float32)}, {}),
        ({}, {"tolerance__numpy": "0.0"}),
        ({}, {"tolerance__numpy": "nan"}),
        ({}, {"tolerance__numpy": "inf"}),
        ({}, {"tolerance__numpy": "1e999"}),
        ({}, {"tolerance__numpy": "-1.0"}),
        ({}, {"tolerance__numpy": " 1.0"}),
        ({}, {"tolerance__numpy": "1_0.0"}),
        ({}, {"tolerance__numpy": "1" * 33}),
        ({}, {"tolerance__": "1.0"}),
        ({}, {"note": ""}),
    ],
)
def test_test_vectors_that_make_no_sense(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Cases are complete and counted, and tolerances are positive decimals."""
    with pytest.raises(MalformedArtifactError):
        TestVectors.from_bytes(vectors(tensors, **metadata))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 1, 3)])
def test_sensitivities_of_another_shape(shape: tuple[int, ...]) -> None:
    """There are three losses per channel."""
    data = write_tensors({"sensitivity": np.zeros(shape)}, kind=SENSITIVITY_KIND)

    with pytest.raises(MalformedArtifactError, match="sensitivity at byte"):
        sensitivity_from_bytes(data)
