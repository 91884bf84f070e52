# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_quantization.extractor import Extractor
from pocketrec_quantization.testing import tiny_extractor


def of_one_unit(**changes: float) -> Extractor:
    """Return an extractor of one dimension whose weights are zeros, unless changed."""
    arrays = {
        "weight_ih": np.zeros((3, 1), np.float32),
        "weight_hh": np.zeros((3, 1), np.float32),
        "bias_ih": np.zeros(3, np.float32),
        "bias_hh": np.zeros(3, np.float32),
    }
    for name, value in changes.items():
        array, _, gate = name.rpartition("_")
        arrays[array][("r", "u", "n").index(gate)] = value
    return Extractor.from_arrays(arrays)


class TestEmbed:
    def test_one_event_by_hand(self) -> None:
        """Open gates at one half: half of the new state, tanh of what the event says."""
        z = of_one_unit(weight_ih_n=2.0).embed(np.array([[0.3]], np.float32))

        assert z == pytest.approx([0.5 * math.tanh(0.6)])

    def test_two_events_by_hand(self) -> None:
        """The state of the first event is half of what the second one finds."""
        z = of_one_unit(weight_ih_n=1.0).embed(np.array([[1.0], [-2.0]], np.float32))

        assert z == pytest.approx([0.5 * math.tanh(-2.0) + 0.25 * math.tanh(1.0)])

    def test_a_closed_update_keeps_what_was(self) -> None:
        """With the update gate at 1 nothing new comes in."""
        z = of_one_unit(weight_ih_n=1.0, bias_ih_u=50.0).embed(np.ones((5, 1), np.float32))

        assert z == pytest.approx([0.0])

    def test_the_reset_gate_weighs_the_state_after_its_bias(self) -> None:
        """A closed reset gate hides the recurrent bias, too: PyTorch's form, not the paper's."""
        x = np.zeros((1, 1), np.float32)

        closed = of_one_unit(bias_hh_n=1.0, bias_ih_r=-50.0).embed(x)
        opened = of_one_unit(bias_hh_n=1.0, bias_ih_r=50.0).embed(x)

        assert closed == pytest.approx([0.0])
        assert opened == pytest.approx([0.5 * math.tanh(1.0)])

    def test_order_matters(self) -> None:
        """The same events in another order are another user."""
        x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

        assert np.abs(tiny_extractor().embed(x) - tiny_extractor().embed(x[::-1])).max() > 0.05

    def test_large_inputs_stay_finite(self) -> None:
        """Saturated gates overflow nowhere."""
        z = tiny_extractor().embed(np.full((3, 4), 1e30, np.float32))

        assert np.isfinite(z).all()

    @pytest.mark.parametrize("shape", [(0, 4), (3, 5), (4,)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        """There is no user embedding without an event."""
        with pytest.raises(ConfigError, match=r"x: expected \(T, 4\)"):
            tiny_extractor().embed(np.zeros(shape, np.float32))


class TestArrays:
    def test_go_there_and_back(self) -> None:
        """An extractor is its four arrays."""
        arrays = tiny_extractor().to_arrays()

        again = Extractor.from_arrays(arrays).to_arrays()

        assert all(np.array_equal(again[name], array) for name, array in arrays.items())

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("weight_ih", np.zeros((12, 5), np.float32)),
            ("weight_hh", np.zeros((12, 4), np.float64)),
            ("bias_ih", np.zeros(4, np.float32)),
            ("bias_hh", np.full(12, np.nan, np.float32)),
            ("bias", np.zeros(12, np.float32)),
        ],
    )
    def test_that_do_not_fit_are_refused(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Three gates of D units over D inputs, finite float32, and nothing else."""
        with pytest.raises(ConfigError):
            Extractor.from_arrays({**tiny_extractor().to_arrays(), name: array})
