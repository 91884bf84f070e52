# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import BackendError, ConfigError
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.caser_reference import CaserReference
from pocketrec_quantization.references import make_reference, reference_of
from pocketrec_quantization.testing import TINY_CASER, TINY_CONFIG, tiny_frozen, tiny_plan


def by_hand() -> CaserReference:
    """Two dimensions, a window of two, and weights that can be followed."""
    config = BackboneConfig(
        kind="caser", embedding_dim=2, window=2, max_height=2, n_horizontal=1, n_vertical=1
    )
    weights = {
        "horizontal.1.weight": [[1, 1]],
        "horizontal.1.bias": [0],
        "horizontal.2.weight": [[1, 0, -1, -1]],
        "horizontal.2.bias": [4],
        "vertical.weight": [[-1, 1]],
        "vertical.bias": [0.5],
        "fc.weight": [[1, 0, 1, 0], [0, 1, 0, 10]],
        "fc.bias": [0, 100],
    }
    arrays = {name: np.array(rows, np.float32) for name, rows in weights.items()}
    return CaserReference(arrays, config)


def test_a_full_window_by_hand() -> None:
    """Of (1, 2) and (3, -1): sums 3 and 2, so 3; 1 - 2 + 4 = 3; newer less older (2.5, -2.5)."""
    h = by_hand().state_after(np.array([[1, 2], [3, -1]], np.float32))

    assert h.tolist() == [2.5 + 3, -2.5 + 10 * 3 + 100]


def test_a_short_history_by_hand() -> None:
    """Before (-1, -2) are zeros: their sum 0 beats -3; 0 + 3 + 4 = 7; newer less zeros."""
    h = by_hand().state_after(np.array([[-1, -2]], np.float32))

    assert h.tolist() == [-0.5 + 0, -1.5 + 10 * 7 + 100]


def test_only_the_last_events_count() -> None:
    """Whatever came before the window makes no difference."""
    frozen = tiny_frozen(TINY_CASER)
    widths = tiny_plan(frozen.layers, frozen.digest).widths
    reference = reference_of(frozen, widths, TINY_CASER)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)

    np.testing.assert_array_equal(reference.state_after(x), reference.state_after(x[-5:]))
    assert not np.array_equal(reference.state_after(x), reference.state_after(x[-4:]))


@pytest.mark.parametrize("config", [TINY_CASER, TINY_CONFIG], ids=["caser", "sasrec"])
def test_missing_weights_are_refused(config: BackboneConfig) -> None:
    """Coded matrices alone, or biases alone, make no backbone."""
    with pytest.raises(ConfigError, match="expected shape"):
        make_reference(tiny_frozen(config).dense, config)


@pytest.mark.parametrize("shape", [(0, 2), (2, 3), (2,)])
def test_histories_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """There is at least one event, and it has D dimensions."""
    with pytest.raises(BackendError, match="x: expected"):
        by_hand().state_after(np.zeros(shape, np.float32))


def test_windows_of_another_shape_are_refused() -> None:
    """A window has L rows."""
    with pytest.raises(BackendError, match="window: expected"):
        by_hand().step(np.zeros((1, 2), np.float32))
