# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes are: an artifact, or one of our errors; never anybody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import ArtifactError
from pocketrec.signing import SigningKey
from pocketrec_quantization.assignment import (
    Assignment,
    decode_assignment,
    encode_assignment,
)
from pocketrec_quantization.bundle import DEFAULT_PLAN, FROZEN, ITEMS, VECTORS
from pocketrec_quantization.extract_vectors import ExtractVectors
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.manifest import MANIFEST_VERSION, decode_manifest, encode_manifest
from pocketrec_quantization.plan import decode_plan, encode_plan
from pocketrec_quantization.plan_json import plan_from_json, plan_to_json
from pocketrec_quantization.planners import sensitivity_from_bytes, sensitivity_to_bytes
from pocketrec_quantization.testing import (
    random_table,
    tiny_extract_vectors,
    tiny_extractor,
    tiny_items,
    tiny_manifest,
    tiny_parts,
    tiny_plan,
)
from pocketrec_quantization.vectors import TestVectors

PARTS = tiny_parts()
PLAN = PARTS[DEFAULT_PLAN]  # its layers are an architecture
TABLE_PLAN = encode_plan(tiny_plan((LayerShape("a", 3, 4), LayerShape("b", 2, 8)), bytes(32)), None)
MANIFEST = encode_manifest(tiny_manifest())
KEY = SigningKey(bytes(32))
ASSIGNMENT = encode_assignment(
    Assignment(
        model_name="demo",
        device_id="d-1",
        bundle_digest=bytes(32),
        withdrawn=(b"\1" * 32, b"\2" * 32),
        version=7,
        issued_at_s=1_700_000_000,
        expires_at_s=1_700_086_400,
        key_id=KEY.public.key_id,
    ),
    KEY.sign,
)
READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "plan": (decode_plan, PLAN),
    "plan with a layer table": (decode_plan, TABLE_PLAN),
    "assignment": (decode_assignment, ASSIGNMENT),
    "manifest": (decode_manifest, MANIFEST),
    "frozen": (FrozenModel.from_bytes, PARTS[FROZEN]),
    "items": (ItemTable.from_bytes, PARTS[ITEMS]),
    "codebooks": (ItemTable.from_bytes, random_table("corrected", 8).to_bytes()),
    "vectors": (TestVectors.from_bytes, PARTS[VECTORS]),
    "extract vectors": (
        ExtractVectors.from_bytes,
        tiny_extract_vectors(tiny_extractor(), tiny_items()).to_bytes(),
    ),
    "sensitivity": (sensitivity_from_bytes, sensitivity_to_bytes(np.ones((4, 3)))),
}
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@st.composite
def mutants(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw bytes that were an artifact before one to three accidents."""
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 40)))
        piece = draw(st.binary(max_size=8) | st.just(data[begin:end] * 2))
        data = data[:begin] + piece + data[end:]
    return data


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_mutants(kind: str, data: st.DataObject) -> None:
    """An artifact after an accident is refused by us, or still one."""
    read, honest = READERS[kind]
    mutant = data.draw(mutants(honest))

    with suppress(ArtifactError):
        read(mutant)


@pytest.mark.parametrize("kind", READERS)
@given(noise=st.binary(max_size=200))
def test_noise(kind: str, noise: bytes) -> None:
    """Noise is refused by us, with or without a convincing start."""
    read, honest = READERS[kind]

    for start in (0, 4, 8, 20):
        with suppress(ArtifactError):
            read(honest[:start] + noise)


@given(mutants(PLAN) | mutants(TABLE_PLAN))
def test_an_accepted_plan_has_one_encoding(mutant: bytes) -> None:
    """Bytes that read as an unsigned plan of this version are those it is written as."""
    try:
        plan = decode_plan(mutant)
    except ArtifactError:
        return

    if mutant[5] == 0 and not plan.key_id:
        assert encode_plan(plan, None) == mutant


@given(mutants(ASSIGNMENT))
def test_an_accepted_assignment_has_one_encoding(mutant: bytes) -> None:
    """Bytes that read as an assignment of this version are those it is written as."""
    try:
        assignment = decode_assignment(mutant)
    except ArtifactError:
        return

    if mutant[5] == 0:
        assert encode_assignment(assignment, lambda _: mutant[-64:]) == mutant


@given(mutants(MANIFEST))
def test_an_accepted_manifest_has_one_encoding(mutant: bytes) -> None:
    """Bytes that read as a manifest of this version are those it is written as."""
    try:
        manifest = decode_manifest(mutant)
    except ArtifactError:
        return

    if manifest.schema_minor <= MANIFEST_VERSION[1]:
        assert encode_manifest(manifest) == mutant


@pytest.mark.parametrize("kind", ["frozen", "items", "vectors", "sensitivity"])
@given(name=st.sampled_from(["__metadata__", "rows", "codes/blocks.0.q", "x"]), value=documents)
def test_headers_of_any_json(kind: str, name: str, value: object) -> None:
    """A header whose entries are any JSON at all is refused by us, or a header."""
    read, honest = READERS[kind]
    length = int.from_bytes(honest[:8], "little")
    header = json.loads(honest[8 : 8 + length])
    text = json.dumps(header | {name: value}).encode()

    with suppress(ArtifactError):
        read(len(text).to_bytes(8, "little") + text + honest[8 + length :])


@given(documents, st.sampled_from(sorted(plan_to_json(decode_plan(PLAN)))))
def test_twins_of_any_json(value: object, name: str) -> None:
    """A JSON twin whose entries are any JSON at all is refused by us, or a plan."""
    honest = plan_to_json(decode_plan(PLAN))

    for document in (value, honest | {name: value}):
        with suppress(ArtifactError):
            plan_from_json(document)  # type: ignore[arg-type]  # that is the point
