# SPDX-License-Identifier: Apache-2.0
"""How Hypothesis draws this package's values."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pocketrec_quantization.backbone import BackboneConfig, coded_layers
from pocketrec_quantization.layers import LayerShape, total_channels
from pocketrec_quantization.levels import LevelTable
from pocketrec_quantization.limits import MAX_INTEGER, MAX_SUBJECT_LENGTH
from pocketrec_quantization.plan import Plan

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
shapes = st.builds(LayerShape, names, st.integers(1, 30), st.integers(1, 40))
other_tables = st.lists(shapes, min_size=1, max_size=5, unique_by=lambda s: s.name).map(tuple)
sasrec_tables = st.builds(
    BackboneConfig,
    kind=st.just("sasrec"),
    embedding_dim=st.integers(1, 12),
    n_blocks=st.integers(1, 3),
    n_heads=st.just(1),
    window=st.just(1),
    ffn_multiplier=st.integers(1, 4),
).map(coded_layers)
layer_tables = other_tables | sasrec_tables
tiers = st.lists(st.sampled_from([0, 2, 4, 8]), min_size=3, max_size=3).map(sorted)
level_tables = tiers.filter(any).map(lambda bits: LevelTable((0, bits[0], bits[1], bits[2])))
subjects = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=MAX_SUBJECT_LENGTH
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw any plan there can be."""
    layers: Any = draw(layer_tables)
    issued_at_s = draw(st.integers(0, MAX_INTEGER - 1))
    return Plan(
        model_id=draw(st.binary(min_size=16, max_size=16)),
        levels=draw(level_tables),
        layers=layers,
        codes=draw(arrays(np.uint8, total_channels(layers), elements=st.integers(1, 3))),
        budget_bytes=draw(st.integers(0, MAX_INTEGER)),
        subject=draw(subjects),
        planner=draw(names),
        version=draw(st.integers(0, MAX_INTEGER)),
        issued_at_s=issued_at_s,
        expires_at_s=draw(st.just(0) | st.integers(issued_at_s + 1, MAX_INTEGER)),
        key_id=draw(st.sampled_from([b"", bytes(range(8))])),
    )


st.register_type_strategy(LayerShape, shapes)
st.register_type_strategy(LevelTable, level_tables)
st.register_type_strategy(Plan, plans())
