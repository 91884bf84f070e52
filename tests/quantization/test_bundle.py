# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    IntegrityError,
    MalformedArtifactError,
)
from pocketrec_quantization.bundle import (
    CARD,
    DEFAULT_PLAN,
    FROZEN,
    ITEMS,
    VECTORS,
    BundleFolder,
    Manifest,
    write_bundle,
)
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.plan import decode_plan, encode_plan
from pocketrec_quantization.testing import (
    tiny_frozen,
    tiny_items,
    tiny_manifest,
    tiny_parts,
    tiny_plan,
)

PARTS = tiny_parts()
Build = Callable[..., BundleFolder]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Write a bundle with other parts or another manifest, and open it."""

    def write(*, manifest: Manifest | None = None, **parts: bytes) -> BundleFolder:
        named = {name.replace("_", "."): content for name, content in parts.items()}
        write_bundle(tmp_path, manifest or tiny_manifest(), PARTS | named)
        return BundleFolder.open(tmp_path)

    return write


def test_what_was_written_is_read(build: Build) -> None:
    """Every part comes back, and the whole bundle verifies."""
    bundle = build(card_json=b"{}")

    bundle.verify()

    assert {name: bundle.read(name) for name in PARTS} == PARTS
    assert bundle.read(CARD) == b"{}"
    assert bundle.read_frozen().layers == bundle.manifest.layers
    assert bundle.read_items().to_bytes() == tiny_items().to_bytes()
    assert bundle.read_default_plan() == decode_plan(PARTS[DEFAULT_PLAN])
    assert len(bundle.read_vectors().cases) == 2


def test_parts_are_named_by_their_digest(build: Build) -> None:
    """A part's file name, its manifest entry and its content agree."""
    bundle = build()

    digest = hashlib.sha256(PARTS[ITEMS]).digest()

    assert bundle.part_path(ITEMS) == bundle.path / "parts" / digest.hex()
    assert bundle.manifest.part(ITEMS).sha256 == digest
    assert bundle.model_digest == hashlib.sha256(PARTS[FROZEN]).digest()
    assert bundle.digest == hashlib.sha256((bundle.path / "manifest.pb").read_bytes()).digest()


def test_equal_bundles_have_equal_digests(build: Build) -> None:
    """Writing the same content again changes nothing, not even a leftover file."""
    first = build()
    files = sorted(first.path.rglob("*"))

    second = build()

    assert second.digest == first.digest
    assert sorted(second.path.rglob("*")) == files


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-1], id="truncated"),
        pytest.param(lambda content: content + b"\0", id="extended"),
        pytest.param(lambda content: content[:-1] + b"\xff", id="changed"),
        pytest.param(lambda _: b"", id="emptied"),
    ],
)
def test_damaged_parts_are_noticed(build: Build, damage: Callable[[bytes], bytes]) -> None:
    """A part that is not what the manifest promises is never handed out."""
    bundle = build()
    path = bundle.part_path(FROZEN)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(IntegrityError, match="part 'frozen' is not the"):
        bundle.read(FROZEN)
    with pytest.raises(IntegrityError):
        bundle.verify()


def test_missing_parts_are_noticed(build: Build) -> None:
    """A part whose file is gone says so."""
    bundle = build()
    bundle.part_path(VECTORS).unlink()

    with pytest.raises(IntegrityError, match="part 'vectors' is missing"):
        bundle.verify()


def test_parts_the_bundle_never_had(build: Build) -> None:
    """Asking for an extractor names what there is instead."""
    with pytest.raises(IncompatibleArtifactError, match="has no part 'extract'"):
        build().read("extract")


@pytest.mark.parametrize("name", [FROZEN, ITEMS, DEFAULT_PLAN])
def test_a_bundle_needs_its_essentials(tmp_path: Path, name: str) -> None:
    """Without frozen weights, items or a default plan there is nothing to run."""
    parts = {other: content for other, content in PARTS.items() if other != name}
    write_bundle(tmp_path, tiny_manifest(), parts)

    with pytest.raises(IncompatibleArtifactError, match=f"has no part '{name}'"):
        BundleFolder.open(tmp_path).verify()


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    """The error says what was expected where, and what makes one."""
    with pytest.raises(FileNotFoundError, match=r"manifest\.pb; bundle build") as failure:
        BundleFolder.open(tmp_path)

    assert failure.value.filename == str(tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layers": (LayerShape("a", 1, 1),)}, "manifest.layers: expected the layers"),
        ({"items": replace(tiny_manifest().items, version=2)}, "manifest.items: expected"),
        ({"items": replace(tiny_manifest().items, n_items=5)}, "manifest.items: expected"),
    ],
)
def test_manifests_that_contradict_their_parts(
    build: Build, changes: dict[str, Any], complaint: str
) -> None:
    """What the manifest says about a part must be so."""
    bundle = build(manifest=replace(tiny_manifest(), **changes))

    with pytest.raises(MalformedArtifactError, match=complaint):
        bundle.verify()


def test_items_of_another_width(build: Build) -> None:
    """Embeddings must have the backbone's number of dimensions."""
    wide = replace(tiny_manifest().backbone, embedding_dim=8)
    bundle = build(items=tiny_items(wide).to_bytes())

    with pytest.raises(MalformedArtifactError, match="rows of 4 dimensions, got 8"):
        bundle.verify()


@pytest.mark.parametrize(
    "changes",
    [{"version": 1}, {"subject": "somebody"}, {"key_id": bytes(8)}],
    ids=["versioned", "personal", "signed"],
)
def test_the_default_plan_is_for_everybody(build: Build, changes: dict[str, Any]) -> None:
    """The bundled plan is unsigned, of version 0 and for nobody in particular."""
    plan = tiny_plan(tiny_frozen().layers, tiny_frozen().digest, **changes)
    signer = (lambda _: bytes(64)) if plan.key_id else None
    bundle = build(default_plan=encode_plan(plan, signer))

    with pytest.raises(MalformedArtifactError, match="unsigned plan of version 0"):
        bundle.verify()


def test_the_default_plan_is_for_this_model(build: Build) -> None:
    """A default plan bound to other weights is refused."""
    plan = tiny_plan(tiny_frozen().layers, tiny_frozen(seed=1).digest)
    bundle = build(default_plan=encode_plan(plan, None))

    with pytest.raises(IncompatibleArtifactError, match="the model has digest"):
        bundle.verify()


def test_test_vectors_name_existing_items(build: Build) -> None:
    """A history with an item beyond the catalogue is refused."""
    vectors = BundleFolder.read_vectors(build())
    beyond = replace(vectors.cases[0], history=np.array([7], np.int32))
    bundle = build(vectors=replace(vectors, cases=(beyond,)).to_bytes())

    with pytest.raises(MalformedArtifactError, match=r"case 0: expected item indices of 0\.\.6"):
        bundle.verify()


def test_the_writer_fills_in_the_parts(tmp_path: Path) -> None:
    """A manifest that lists parts already, or an empty part, is a mistake."""
    manifest = write_bundle(tmp_path, tiny_manifest(), PARTS)

    with pytest.raises(ConfigError, match="expected no parts yet"):
        write_bundle(tmp_path, manifest, PARTS)
    with pytest.raises(ConfigError, match="length_bytes"):
        write_bundle(tmp_path, tiny_manifest(), PARTS | {CARD: b""})
