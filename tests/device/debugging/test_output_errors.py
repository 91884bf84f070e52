# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from tests.device.debugging.conftest import Patient

from pocketrec_device.debugging.output_errors import input_of, measure_outputs
from pocketrec_device.debugging.values import value_names
from pocketrec_quantization.backbone import coded_layers


class TestMeasureOutputs:
    def test_own_and_accumulated_errors_are_told_apart(self, patient: Patient) -> None:
        """One spoiled layer: its own outputs, and those that follow from them."""
        config = patient.model.config
        exact = {
            **patient.model.frozen.dense,
            **patient.model.frozen.adapt(patient.widths(8)),
        }
        layers = [layer.name for layer in coded_layers(config)]
        spoiled = layers[1]
        planned = exact | {f"{spoiled}.weight": exact[f"{spoiled}.weight"] * np.float32(1.1)}
        items = patient.bundle.read_items()
        histories = [items.embed(patient.cases.history(case)[-5:]) for case in range(4)]

        errors = measure_outputs(exact, planned, config, histories)

        assert list(errors) == layers
        assert errors[spoiled].error > 0.01
        assert errors[spoiled].sqnr_db == pytest.approx(-20 * np.log10(errors[spoiled].error))
        assert errors[spoiled].accumulated_error == pytest.approx(errors[spoiled].error)
        first, last = errors[layers[0]], errors[layers[-1]]
        assert (first.error, first.sqnr_db, first.accumulated_error) == (0, None, 0)
        assert first.cosine == pytest.approx(1)
        assert last.error == 0
        assert last.accumulated_error > 0

    def test_a_layer_twice_as_large_errs_by_all_of_itself(self, patient: Patient) -> None:
        """Without a bias: relative error 1, 0 decibels, cosine 1."""
        config = patient.model.config
        layer = coded_layers(config)[0].name
        exact = {
            **patient.model.frozen.dense,
            **patient.model.frozen.adapt(patient.widths(8)),
        }
        exact[f"{layer}.bias"] = np.zeros_like(exact[f"{layer}.bias"])
        planned = exact | {f"{layer}.weight": exact[f"{layer}.weight"] * np.float32(2)}
        items = patient.bundle.read_items()

        error = measure_outputs(exact, planned, config, [items.embed(np.arange(1, 4))])[layer]

        assert error.error == pytest.approx(1)
        assert error.sqnr_db == pytest.approx(0, abs=1e-4)
        assert error.cosine == pytest.approx(1)

    def test_every_layer_has_an_input_that_is_told(self, patient: Patient) -> None:
        """Names of inputs are those that the reference tells."""
        known = set(value_names(patient.model.config))

        for layer in coded_layers(patient.model.config):
            assert layer.name in known
            assert input_of(layer.name) in known
