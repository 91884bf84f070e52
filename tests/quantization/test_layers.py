# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_quantization.layers import (
    LayerShape,
    check_layers,
    elements_per_channel,
    split_by_layer,
    total_channels,
    total_weights,
)

LAYERS = (LayerShape("a", 2, 3), LayerShape("b", 1, 5))


def test_channels_and_weights_are_counted() -> None:
    """Two channels of three and one of five make 3 channels and 11 weights."""
    assert total_channels(LAYERS) == 3
    assert total_weights(LAYERS) == 11
    assert elements_per_channel(LAYERS).tolist() == [3, 3, 5]


def test_splitting_gives_views_in_table_order() -> None:
    """Each layer sees its own stretch of the flat array, without a copy."""
    flat = np.arange(3)

    parts = split_by_layer(flat, LAYERS)

    assert {name: part.tolist() for name, part in parts.items()} == {"a": [0, 1], "b": [2]}
    assert all(np.shares_memory(part, flat) for part in parts.values())


def test_splitting_refuses_another_length() -> None:
    """Four entries for three channels are a mistake."""
    with pytest.raises(ConfigError, match="expected 3 channels"):
        split_by_layer(np.arange(4), LAYERS)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (("", 1, 1), "layer.name"),
        ((".hidden", 1, 1), "layer.name"),
        (("a/b", 1, 1), "layer.name"),
        (("ä", 1, 1), "layer.name"),
        (("a\n", 1, 1), "layer.name"),
        (("a" * 65, 1, 1), "layer.name"),
        (("a", 0, 1), "n_channels"),
        (("a", 1, 2**16 + 1), "n_elements"),
        (("a", True, 1), "n_channels"),
        (("a", 1.0, 1), "n_channels"),
    ],
)
def test_shapes_outside_the_limits_are_refused(fields: Any, complaint: str) -> None:
    """A layer has a short ASCII name and a shape within the limits."""
    with pytest.raises(ConfigError, match=complaint):
        LayerShape(*fields)


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ((), "got 0"),
        ((LAYERS[0], LAYERS[0]), "'a' is named twice"),
        (tuple(LayerShape(f"l{i}", 1, 1) for i in range(1025)), "got 1025"),
        (tuple(LayerShape(f"l{i}", 2**16, 1) for i in range(17)), "channels in all"),
    ],
)
def test_tables_outside_the_limits_are_refused(layers: Any, complaint: str) -> None:
    """A table has 1 to 1024 layers of different names and at most 2**20 channels."""
    with pytest.raises(ConfigError, match=complaint):
        check_layers(layers)
