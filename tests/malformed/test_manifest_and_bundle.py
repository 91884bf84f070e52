# SPDX-License-Identifier: Apache-2.0
"""Abuses of the manifest and of the folder beside it; see README.md."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocketrec.errors import (
    ArtifactError,
    IncompatibleArtifactError,
    IntegrityError,
    MalformedArtifactError,
)
from pocketrec_proto.v1.artifacts_pb2 import (
    BundleManifest,
    Codebook,
    ItemTableInfo,
    Layer,
    Part,
)
from pocketrec_quantization.bundle import FROZEN, BundleFolder, PartInfo, write_bundle
from pocketrec_quantization.limits import MAX_MANIFEST_BYTES
from pocketrec_quantization.manifest import MANIFEST_VERSION, decode_manifest, encode_manifest
from pocketrec_quantization.testing import tiny_manifest, tiny_parts

PART = PartInfo(name="frozen", sha256=bytes(32), length_bytes=1)
MANIFEST = replace(tiny_manifest(), parts=(PART,))
DATA = encode_manifest(MANIFEST)


def changed(**fields: Any) -> bytes:
    """Return the manifest with other values in some fields, without the writer's checks."""
    message = BundleManifest.FromString(DATA)
    for name, value in fields.items():
        outer, _, inner = name.partition("__")
        if inner:
            setattr(getattr(message, outer), inner, value)
        else:
            message.ClearField(outer)  # type: ignore[arg-type]  # a field's name
            message.MergeFrom(BundleManifest(**{outer: value}))
    return message.SerializeToString(deterministic=True)


def codebook_items(n_codebooks: int = 1, **fields: int) -> ItemTableInfo:
    """Return the entry of an item table with codebooks of 7 rows."""
    n_rows = fields.pop("n_rows")
    codebook = Codebook(**{"n_rows": 7, "bits": 4, "width": 4} | fields)
    return ItemTableInfo(
        n_items=6, n_rows=n_rows, row_bits=8, version=1, codebooks=[codebook] * n_codebooks
    )


def part(**fields: Any) -> Part:
    """Return a part's entry with other values in some fields."""
    return Part(**{"name": "frozen", "sha256": bytes(32), "length_bytes": 1} | fields)


def test_truncated_anywhere() -> None:
    """A prefix is refused, or is another manifest: one without its last fields."""
    for length in range(len(DATA)):
        try:
            manifest = decode_manifest(DATA[:length])
        except ArtifactError:
            continue

        assert manifest != MANIFEST
        assert encode_manifest(manifest) == DATA[:length]


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 40, DATA + b"\0", DATA + b"\x0b"])
def test_bytes_that_are_no_manifest(data: bytes) -> None:
    """Nothing, noise and trailing bytes are refused."""
    with pytest.raises(MalformedArtifactError, match="manifest at byte 0"):
        decode_manifest(data)


def test_larger_than_any_manifest() -> None:
    """More than 1 MiB is refused by its length alone."""
    with pytest.raises(MalformedArtifactError, match="got 1048577"):
        decode_manifest(bytes(MAX_MANIFEST_BYTES + 1))


def test_unknown_major_version() -> None:
    """Both version numbers are named."""
    with pytest.raises(IncompatibleArtifactError, match=r"version 2\.3, .* reads 1\.x"):
        decode_manifest(changed(schema_major=2, schema_minor=3))


def test_unknown_minor_version_is_readable() -> None:
    """A newer minor version may add fields."""
    minor = MANIFEST_VERSION[1] + 1
    future = changed(schema_minor=minor) + b"\xf2\x07\x03new"

    assert decode_manifest(future) == replace(MANIFEST, schema_minor=minor)
    with pytest.raises(MalformedArtifactError, match="no unknown field"):
        decode_manifest(DATA + b"\xf2\x07\x03new")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"extractor__kind": "gru", "extractor__window": 5}, "schema_minor"),
        ({"extractor__kind": "gru", "schema_minor": 1}, "extractor.window"),
    ],
)
def test_impossible_extractor(fields: dict[str, object], complaint: str) -> None:
    """An extractor looks back at something, and older readers are not led to believe in it."""
    with pytest.raises(MalformedArtifactError, match=complaint):
        decode_manifest(changed(**fields))


def test_unknown_extractor() -> None:
    """An extractor of a later release is well formed, but not for this one."""
    with pytest.raises(IncompatibleArtifactError, match="the bundle has 'mean'"):
        decode_manifest(changed(schema_minor=1, extractor__kind="mean", extractor__window=5))


def test_unknown_backbone() -> None:
    """An architecture of a later release is well formed, but not for this one."""
    with pytest.raises(IncompatibleArtifactError, match="the bundle has 'gru4rec'"):
        decode_manifest(changed(backbone__kind="gru4rec"))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"schema_major": 0}, "schema_major"),
        ({"model_name": ""}, "model_name"),
        ({"model_name": "../demo"}, "model_name"),
        ({"version": 2**63}, "version"),
        ({"backbone__embedding_dim": 0}, "embedding_dim"),
        ({"backbone__n_heads": 3}, "n_heads"),
        ({"backbone__window": 2**31}, "window"),
        ({"items__row_bits": 4}, "row_bits"),
        ({"items__n_items": 2**31}, "n_items"),
        ({"items": codebook_items(n_rows=7)}, "schema_minor"),
        ({"schema_minor": 2, "items": codebook_items(n_rows=8)}, "n_rows"),
        ({"schema_minor": 2, "items": codebook_items(n_rows=7, bits=3)}, "bits"),
        ({"schema_minor": 2, "items": codebook_items(n_rows=7, width=2**31)}, "width"),
        ({"schema_minor": 2, "items": codebook_items(n_rows=7, n_codebooks=300)}, "codebooks"),
        ({"items__n_rows": 0}, "n_rows"),
        ({"layers": []}, "layers"),
        ({"layers": [Layer(name="a", n_channels=1, n_elements=1)] * 2}, "'a' is named twice"),
        ({"license": "x" * 1025}, "license"),
        ({"producer": "a\x1b[31m"}, "producer"),
        ({"parts": [part(), part()]}, "a name occurs twice"),
        ({"parts": [part(name="b"), part(name="a")]}, "in the order of their names"),
        ({"parts": [part(name=f"{i:03}") for i in range(65)]}, "at most 64, got 65"),
        ({"parts": [part(name="../../etc/passwd")]}, "part.name"),
        ({"parts": [part(name="a/b")]}, "part.name"),
        ({"parts": [part(name="")]}, "part.name"),
        ({"parts": [part(sha256=bytes(31))]}, "sha256 of 32 bytes"),
        ({"parts": [part(length_bytes=0)]}, "length_bytes"),
        ({"parts": [part(length_bytes=2**31 + 1)]}, "length_bytes"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], complaint: str) -> None:
    """A manifest that parses may still say nonsense; the field is named."""
    with pytest.raises(MalformedArtifactError, match=complaint):
        decode_manifest(changed(**fields))


def test_a_small_file_in_the_place_of_a_large_part(tmp_path: Path) -> None:
    """A declared 2 GiB ask for no memory when the file has one byte."""
    write_bundle(tmp_path, tiny_manifest(), tiny_parts())
    huge = replace(MANIFEST, parts=(replace(PART, length_bytes=2**31),))
    (tmp_path / "manifest.pb").write_bytes(encode_manifest(huge))
    (tmp_path / "parts" / ("00" * 32)).write_bytes(b"x")

    with pytest.raises(IntegrityError, match="is not the 2147483648 bytes"):
        BundleFolder.open(tmp_path).read(FROZEN)


def test_a_large_file_in_the_place_of_a_small_part(tmp_path: Path) -> None:
    """A file that is longer than promised is not read at all."""
    write_bundle(tmp_path, tiny_manifest(), tiny_parts())
    bundle = BundleFolder.open(tmp_path)
    os.truncate(bundle.part_path(FROZEN), 2**40)  # sparse

    with pytest.raises(IntegrityError, match="part 'frozen' is not"):
        bundle.read(FROZEN)


def test_a_manifest_without_end(tmp_path: Path) -> None:
    """Of a manifest file, no more than the limit is read."""
    (tmp_path / "manifest.pb").touch()
    os.truncate(tmp_path / "manifest.pb", 2**40)  # sparse

    with pytest.raises(MalformedArtifactError, match="got 1048577"):
        BundleFolder.open(tmp_path)
