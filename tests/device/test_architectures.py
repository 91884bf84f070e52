# SPDX-License-Identifier: Apache-2.0
"""Backends on models of other shapes than the tiny one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_device.attention_state import AttentionState
from pocketrec_device.backends import build_backend
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.bundle import (
    DEFAULT_PLAN,
    FROZEN,
    ITEMS,
    PREFILL,
    SCORE,
    STEP,
    BackboneConfig,
    BundleFolder,
    write_bundle,
)
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.testing import tiny_frozen, tiny_items, tiny_manifest, tiny_plan

if TYPE_CHECKING:
    from pathlib import Path


from tests.device.closeness import Closeness


def tiny_bundle(folder: Path, config: BackboneConfig) -> BundleFolder:
    """Write a bundle of any architecture, with graphs and without test vectors."""
    frozen = tiny_frozen(config)
    graphs = write_graphs(frozen.dense, config)
    parts = {
        FROZEN: frozen.to_bytes(),
        ITEMS: tiny_items(config).to_bytes(),
        DEFAULT_PLAN: encode_plan(tiny_plan(frozen.layers, frozen.digest), None),
        PREFILL: graphs["prefill"],
        STEP: graphs["step"],
        SCORE: graphs["score"],
    }
    write_bundle(folder, tiny_manifest(config), parts)
    return BundleFolder.open(folder)


@pytest.mark.parametrize(
    "settings",
    [
        EngineSettings(backend="numpy"),
        EngineSettings(compute="fp32", swap="adapter"),
        EngineSettings(compute="fp32", swap="rebuild"),
        EngineSettings(compute="packed"),
    ],
    ids=lambda each: f"{each.backend}-{each.compute}-{each.swap}",
)
@pytest.mark.parametrize("window", [128, 200])
def test_long_histories_compute_like_the_reference(
    tmp_path: Path, settings: EngineSettings, window: int
) -> None:
    """Whole windows, whose attention is cut in pieces, and any part of one."""
    config = BackboneConfig(
        kind="sasrec", embedding_dim=4, n_blocks=2, n_heads=2, window=window, ffn_multiplier=2
    )
    bundle = tiny_bundle(tmp_path / "tiny", config)
    plan = bundle.read_default_plan()
    backend = build_backend(bundle, plan, settings)
    reference = ReferenceBackend.from_model(bundle.read_frozen(), plan.widths, config)
    items = bundle.read_items()
    close = Closeness(backend, items)
    x = items.embed(np.random.default_rng(1).integers(1, 7, window + 2))
    session = backend.new_state()

    for n_events in (window, 1, 64, window - 1, window):
        session.reset()
        session.observe(x[:n_events])

        expected = reference.prefill(x[:n_events])
        close.of_states(session.h, expected.h)
        if backend.takes_histories:  # one event at a time, rows lie elsewhere in the ring
            rows = slice(0 if n_events == window else 1, None)
            assert isinstance(session, AttentionState)
            cached = session._buffers.cache[:, :, rows][:, :, :n_events]
            close.of_arrays(cached[:, 0], expected.keys)
            close.of_arrays(cached[:, 1], expected.values)
        for event in x[n_events : window + 2][:2]:
            session.step(event)
        close.of_states(session.h, reference.full_history(x[: n_events + 2]).h)


@pytest.mark.parametrize(
    "settings",
    [
        EngineSettings(backend="numpy"),
        EngineSettings(compute="fp32"),
        EngineSettings(compute="int8", swap="rebuild"),
        EngineSettings(compute="packed", swap="adapter"),
    ],
    ids=lambda each: f"{each.backend}-{each.compute}",
)
@pytest.mark.parametrize(
    "shape",
    [
        {"window": 1},
        {"window": 2},
        {"window": 3, "n_blocks": 1},
        {"window": 3, "n_blocks": 3, "n_heads": 1, "embedding_dim": 6},
    ],
    ids=["one event", "two events", "one block", "three blocks, one head"],
)
def test_any_architecture_steps_like_the_reference(
    tmp_path: Path, settings: EngineSettings, shape: dict[str, int]
) -> None:
    """Tiny windows, a single block and odd sizes compute like any other, over three turns."""
    fields = {"embedding_dim": 4, "n_blocks": 2, "n_heads": 2, "ffn_multiplier": 2}
    config = BackboneConfig(**{"kind": "sasrec"} | fields | shape)
    bundle = tiny_bundle(tmp_path / "tiny", config)
    plan = bundle.read_default_plan()
    backend = build_backend(bundle, plan, settings)
    reference = ReferenceBackend.from_model(bundle.read_frozen(), plan.widths, config)
    close = Closeness(backend, bundle.read_items())
    items = bundle.read_items()
    x = items.embed(np.random.default_rng(1).integers(1, 7, 3 * config.window + 2))
    expected = [reference.full_history(x[:n_events]).h for n_events in range(1, len(x) + 1)]

    for n_first in {0, 1, config.window - 1, config.window}:
        session = backend.new_state()
        session.observe(x[:n_first])
        for event, h in zip(x[n_first:], expected[n_first:], strict=True):
            session.step(event)
            close.of_states(session.h, h)
