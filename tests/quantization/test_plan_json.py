# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError, PlanError
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.plan import Plan
from pocketrec_quantization.plan_json import (
    LayerDifference,
    diff_plans,
    plan_from_json,
    plan_to_json,
)
from pocketrec_quantization.testing import tiny_plan

LAYERS = (LayerShape("a", 3, 4), LayerShape("b", 2, 8))
PLAN = tiny_plan(LAYERS, bytes(32), codes=np.array([1, 2, 3, 1, 2], np.uint8))


@given(st.from_type(Plan))
def test_the_twin_loses_nothing(plan: Plan) -> None:
    """A plan survives being written to and read from JSON text."""
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan


def test_codes_are_digits_per_layer() -> None:
    """A person can read which channel of which layer has which code."""
    layers = plan_to_json(PLAN)["layers"]

    assert [layer["codes"] for layer in layers] == ["123", "12"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema": "pocketrec.model/1"}, "schema: expected 'pocketrec.plan/2'"),
        ({"schema": 1}, "schema"),
        ({"model_id": "00"}, "model_id: expected 16 bytes"),
        ({"model_id": "0" * 31 + "g"}, "model_id: expected hexadecimal"),
        ({"model_id": "AB" * 16}, "model_id: expected lower-case"),
        ({"model_id": " " + "00" * 16}, "model_id: expected lower-case"),
        ({"levels": [0, 2, 4]}, "levels"),
        ({"levels": [0, 2, 4, "8"]}, "levels"),
        ({"levels": [0, 2, 4, [8]]}, "levels"),
        ({"layers": []}, "layers"),
        ({"layers": [1]}, "layers: expected an object"),
        ({"version": True}, "version: expected int, got bool"),
        ({"version": 1.0}, "version: expected int, got float"),
        ({"version": 2**53}, "version"),
        ({"subject": None}, "subject"),
        ({"subject": "\ud800"}, "subject"),
        ({"signature": ""}, "unknown entry 'signature'"),
    ],
)
def test_other_documents_are_refused(changes: dict[str, Any], complaint: str) -> None:
    """An entry of another type or value is named."""
    with pytest.raises(MalformedArtifactError, match=complaint):
        plan_from_json(plan_to_json(PLAN) | changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"codes": "12"}, "expected 3 digits"),
        ({"codes": "120"}, "expected 3 digits of 1, 2 or 3"),
        ({"codes": "12३"}, "expected 3 digits of 1, 2 or 3"),
        ({"codes": [1, 2, 3]}, "expected str, got list"),
        ({"name": "b"}, "'b' is named twice"),
        ({"name": "a b"}, "layer.name"),
        ({"n_elements": 0}, "n_elements"),
        ({"n_channels": 2**16}, "expected 65536 digits"),
    ],
)
def test_other_layers_are_refused(changes: dict[str, Any], complaint: str) -> None:
    """A layer that does not fit its codes is named."""
    document = plan_to_json(PLAN)
    document["layers"][0] |= changes

    with pytest.raises(MalformedArtifactError, match=complaint):
        plan_from_json(document)


@pytest.mark.parametrize("name", list(plan_to_json(PLAN)))
def test_every_entry_is_needed(name: str) -> None:
    """A twin without one of its entries is refused."""
    document = plan_to_json(PLAN)
    del document[name]

    with pytest.raises(MalformedArtifactError, match=f"expected the entry '{name}'"):
        plan_from_json(document)


def test_an_unknown_major_version_names_both() -> None:
    """A twin from the future says which versions met."""
    with pytest.raises(IncompatibleArtifactError, match=r"version 3\.0.* reads 2\.x"):
        plan_from_json(plan_to_json(PLAN) | {"schema": "pocketrec.plan/3"})


def test_differences_are_told_per_layer() -> None:
    """Only layers whose widths differ are listed, with what changed."""
    other = replace(PLAN, codes=np.array([1, 2, 3, 3, 2], np.uint8))

    assert diff_plans(PLAN, PLAN) == []
    assert diff_plans(PLAN, other) == [
        LayerDifference(
            name="b", n_channels=2, n_changed=1, before={2: 1, 4: 1}, after={4: 1, 8: 1}
        )
    ]


def test_plans_of_different_models_have_no_difference() -> None:
    """Channels of different layers cannot be compared."""
    with pytest.raises(PlanError, match="different layers"):
        diff_plans(PLAN, tiny_plan(LAYERS[:1], bytes(32)))
