# SPDX-License-Identifier: Apache-2.0
"""A plan as JSON, for people, diffs and other languages.

The twin holds exactly what :class:`~pocketrec_quantization.plan.Plan` holds and
converts both ways without loss. It carries no signature. ``docs/format.md`` §2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import MalformedArtifactError, PlanError
from pocketrec_quantization.checks import check_major, reading
from pocketrec_quantization.layers import LayerShape, LayerTable, check_layers, split_by_layer
from pocketrec_quantization.levels import LevelTable, count_widths
from pocketrec_quantization.limits import MAX_LAYERS
from pocketrec_quantization.plan import PLAN_VERSION, Plan

__all__ = ["PLAN_JSON_SCHEMA", "LayerDifference", "diff_plans", "plan_from_json", "plan_to_json"]

PLAN_JSON_SCHEMA = f"pocketrec.plan/{PLAN_VERSION[0]}"
"""Value of the twin's ``schema`` entry."""

_SCHEMA = re.compile(r"pocketrec\.plan/(0|[1-9][0-9]{0,4})")

_FIELDS = {
    "schema": str,
    "model_id": str,
    "levels": list,
    "layers": list,
    "budget_bytes": int,
    "subject": str,
    "planner": str,
    "version": int,
    "issued_at_s": int,
    "expires_at_s": int,
    "key_id": str,
}
_COPIED = ("budget_bytes", "subject", "planner", "version", "issued_at_s", "expires_at_s")
_LAYER_FIELDS = {"name": str, "n_channels": int, "n_elements": int, "codes": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """How two plans treat one layer.

    Attributes:
        name: The layer.
        n_channels: C_l.
        n_changed: Channels whose width differs.
        before: Bits to number of channels, in the first plan.
        after: Bits to number of channels, in the second.
    """

    name: str
    n_channels: int
    n_changed: int
    before: dict[int, int]
    after: dict[int, int]


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return the twin: only dicts, lists, strings and integers."""
    by_layer = split_by_layer(plan.codes, plan.layers)
    return {
        "schema": PLAN_JSON_SCHEMA,
        "model_id": plan.model_id.hex(),
        "levels": list(plan.levels.bits),
        "layers": [
            {
                "name": layer.name,
                "n_channels": layer.n_channels,
                "n_elements": layer.n_elements,
                "codes": "".join(map(str, by_layer[layer.name].tolist())),
            }
            for layer in plan.layers
        ],
        "budget_bytes": plan.budget_bytes,
        "subject": plan.subject,
        "planner": plan.planner,
        "version": plan.version,
        "issued_at_s": plan.issued_at_s,
        "expires_at_s": plan.expires_at_s,
        "key_id": plan.key_id.hex(),
    }


def plan_from_json(document: Mapping[str, Any]) -> Plan:
    """Read the twin.

    Args:
        document: As ``json.loads`` returns it.

    Raises:
        MalformedArtifactError: An entry is missing, unknown, or has another type or value.
        IncompatibleArtifactError: The schema's major version is unknown.
    """
    values = _checked(document, _FIELDS, "plan")
    _check_schema(values["schema"])
    layers, codes = _read_layers(values["layers"])
    with reading("plan"):
        return Plan(
            model_id=_read_hex(values["model_id"], "model_id"),
            levels=LevelTable(tuple(values["levels"])),
            layers=layers,
            codes=codes,
            key_id=_read_hex(values["key_id"], "key_id"),
            **{name: values[name] for name in _COPIED},
        )


def diff_plans(first: Plan, second: Plan) -> list[LayerDifference]:
    """Compare the widths of two plans, layer by layer.

    Returns:
        One entry for each layer in which at least one channel's width differs.

    Raises:
        PlanError: The plans are for different layers.
    """
    if first.layers != second.layers:
        raise PlanError("the plans are for different layers; compare plans of one model")
    before = split_by_layer(first.widths, first.layers)
    after = split_by_layer(second.widths, second.layers)
    return [
        LayerDifference(
            name=layer.name,
            n_channels=layer.n_channels,
            n_changed=int((before[layer.name] != after[layer.name]).sum()),
            before=count_widths(before[layer.name]),
            after=count_widths(after[layer.name]),
        )
        for layer in first.layers
        if not np.array_equal(before[layer.name], after[layer.name])
    ]


def _checked(value: object, fields: Mapping[str, type], where: str) -> dict[str, Any]:
    """Return an object that has exactly these fields, each of exactly its type."""
    if not isinstance(value, Mapping):
        raise MalformedArtifactError("expected an object", field=where)
    for name, kind in fields.items():
        if name not in value:
            raise MalformedArtifactError(f"expected the entry {name!r}", field=where)
        if type(value[name]) is not kind:
            raise MalformedArtifactError(
                f"expected {kind.__name__}, got {type(value[name]).__name__}",
                field=f"{where}.{name}",
            )
    unknown = sorted(map(str, set(value) - set(fields)))
    if unknown:
        raise MalformedArtifactError(f"unknown entry {unknown[0][:64]!r}", field=where)
    return dict(value)


def _check_schema(text: str) -> None:
    match = _SCHEMA.fullmatch(text)
    if match is None:
        raise MalformedArtifactError(
            f"expected {PLAN_JSON_SCHEMA!r}, got {text[:64]!r}", field="schema"
        )
    check_major((int(match[1]), 0), PLAN_VERSION, what="the plan")


def _read_hex(text: str, field: str) -> bytes:
    try:
        content = bytes.fromhex(text)
    except ValueError as error:
        raise MalformedArtifactError("expected hexadecimal digits", field=field) from error
    if content.hex() != text:
        raise MalformedArtifactError("expected lower-case hexadecimal digits", field=field)
    return content


def _read_layers(values: list[Any]) -> tuple[LayerTable, NDArray[np.uint8]]:
    if not 1 <= len(values) <= MAX_LAYERS:
        raise MalformedArtifactError(f"expected 1..{MAX_LAYERS}, got {len(values)}", field="layers")
    layers: list[LayerShape] = []
    texts: list[str] = []
    for value in values:
        entry = _checked(value, _LAYER_FIELDS, "layers")
        with reading("layers"):
            layers.append(LayerShape(entry["name"], entry["n_channels"], entry["n_elements"]))
        if len(entry["codes"]) != entry["n_channels"] or set(entry["codes"]) - set("123"):
            raise MalformedArtifactError(
                f"expected {entry['n_channels']} digits of 1, 2 or 3",
                field=f"layers.{entry['name']}.codes",
            )
        texts.append(entry["codes"])
    with reading("layers"):
        check_layers(tuple(layers))
    digits = np.frombuffer("".join(texts).encode(), np.uint8)
    return tuple(layers), digits - np.uint8(ord("0"))
