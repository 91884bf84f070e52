# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.device.conftest import CONFIGS
from tests.device.debugging.conftest import N_USERS, Patient

from pocketrec.errors import IncompatibleArtifactError
from pocketrec_device.debugging.blame import BlameOptions, BlameReport, find_blame
from pocketrec_device.debugging.progress import Progress
from pocketrec_quantization.backbone import coded_layers
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.references import reference_of

LAYERS = [
    pytest.param(kind, layer.name, id=f"{kind}-{layer.name}")
    for kind, config in CONFIGS.items()
    for layer in coded_layers(config)
]
MEASURED = BlameOptions(n_measured=99, n_sampled=48)


def planted(
    patient: Patient, layer: str, *, others: int, options: BlameOptions = MEASURED
) -> BlameReport:
    """Examine a plan with one layer at 2 bits."""
    widths = patient.widths(others, **{layer.replace(".", "__"): 2})
    return find_blame(patient.bundle, widths, patient.cases, options=options)


class TestPlantedLayer:
    @pytest.mark.parametrize(("kind", "layer"), LAYERS)
    def test_the_one_at_2_bits_is_first(
        self, patients: dict[str, Patient], kind: str, layer: str
    ) -> None:
        """All others have 8; it has all the blame, and 8 bits bring back what it cost."""
        report = planted(patients[kind], layer, others=8)

        first, *others = report.layers
        assert first.name == layer
        assert first.blame == pytest.approx(1)
        assert first.predicted is not None
        assert first.measured is not None
        assert report.ndcg_best.mean == pytest.approx(1)
        gain = first.measured.ndcg.mean
        assert gain == pytest.approx(1 - report.ndcg.mean)
        assert first.measured.overlap.mean > 0
        assert first.predicted.ndcg.mean == pytest.approx(gain, rel=0.2)
        assert all(other.blame == 0 and other.predicted is None for other in others)

    @pytest.mark.parametrize(("kind", "layer"), [("sasrec", "blocks.0.v"), ("caser", "fc")])
    def test_among_layers_that_err_too_the_gain_is_within_what_is_predicted(
        self, patients: dict[str, Patient], kind: str, layer: str
    ) -> None:
        """All others have 4: the interval of the prediction holds what is measured."""
        options = replace(MEASURED, n_measured=1)
        first, *others = planted(patients[kind], layer, others=4, options=options).layers

        assert first.name == layer
        assert first.predicted is not None
        assert first.measured is not None
        for predicted, measured in (
            (first.predicted.ndcg, first.measured.ndcg),
            (first.predicted.overlap, first.measured.overlap),
        ):
            assert predicted.mean > 0
            assert predicted.low <= measured.mean <= predicted.high
        assert all(other.measured is None for other in others)


class TestReport:
    def test_blame_is_the_share_of_the_error_that_goes(self, patient: Patient) -> None:
        """As the reference executor has it, for the users of the sample."""
        options = BlameOptions(n_sampled=N_USERS)
        widths = patient.model.mixed_plan().widths
        report = find_blame(patient.bundle, widths, patient.cases, options=options)

        items, window = patient.bundle.read_items(), patient.model.config.window
        plans = {
            "best": patient.widths(8),
            "planned": widths,
            "mended": with_layer(patient, widths, report.layers[0].name, 8),
        }
        states = {}
        for name, each in plans.items():
            reference = reference_of(patient.model.frozen, each, patient.model.config)
            states[name] = np.stack(
                [
                    reference.state_after(items.embed(patient.cases.history(user)[-window:]))
                    for user in range(N_USERS)
                ]
            ).astype(np.float64)
        error, left = (
            ((states[name] - states["best"]) ** 2).sum() for name in ("planned", "mended")
        )
        assert report.layers[0].blame == pytest.approx(1 - left / error, abs=1e-4)
        power = (states["best"] ** 2).sum()
        assert report.state_error == pytest.approx(np.sqrt(error / power), abs=1e-4)

    def test_layers_come_by_falling_blame(self, patient: Patient) -> None:
        """All of them, each once."""
        widths = patient.model.mixed_plan().widths

        report = find_blame(patient.bundle, widths, patient.cases)

        blames = [layer.blame for layer in report.layers]
        assert blames == sorted(blames, reverse=True)
        assert {layer.name for layer in report.layers} == {
            layer.name for layer in patient.model.frozen.layers
        }

    def test_what_8_bits_cost_is_counted(self, patients: dict[str, Patient]) -> None:
        """64 weights of 8 channels at 2 bits are 16 bytes, at 8 bits 64."""
        first = planted(patients["sasrec"], "blocks.0.q", others=8).layers[0]

        assert (first.n_channels, first.n_elements) == (8, 8)
        assert first.channels_by_bits == {2: 8}
        assert first.coded_bytes == 16 + 32
        assert first.added_bytes == 48
        assert first.effective_bits == 6

    def test_a_plan_of_8_bits_has_nobody_to_blame(self, patient: Patient) -> None:
        """Nothing could be better."""
        report = find_blame(patient.bundle, patient.widths(8), patient.cases)

        assert report.state_error == 0
        assert report.overlap.mean == 1
        assert all(layer.blame == 0 and layer.predicted is None for layer in report.layers)

    def test_measuring_is_up_to_the_caller(self, patient: Patient) -> None:
        """It takes a run of all users for every layer."""
        options = BlameOptions(n_sampled=10)

        report = find_blame(patient.bundle, patient.widths(2), patient.cases, options=options)

        assert report.n_sampled == 10
        assert all(layer.measured is None for layer in report.layers)
        assert all(layer.predicted is not None for layer in report.layers)

    def test_float_weights_are_what_outputs_are_compared_with(self, patient: Patient) -> None:
        """Weights that are those of 8 bits and a hundredth more err by that hundredth."""
        best = patient.model.frozen.adapt(patient.widths(8))
        floats = {name: weights / np.float32(1.01) for name, weights in best.items()}

        report = find_blame(patient.bundle, patient.widths(8), patient.cases, floats)

        assert report.outputs_against == "float weights"
        for layer in report.layers:
            assert 0 < layer.output.error < 0.05
            assert layer.output.sqnr_db == pytest.approx(-20 * np.log10(layer.output.error))

    def test_progress_is_told_step_by_step(self, patient: Patient) -> None:
        """What begins, of how many steps, and that many of them."""
        told: list[list[Any]] = []
        progress = Progress(
            begin=lambda text, n_steps: told.append([text, n_steps, 0]),
            advance=lambda n_steps: told[-1].__setitem__(2, told[-1][2] + n_steps),
        )

        find_blame(
            patient.bundle, patient.widths(2), patient.cases, options=MEASURED, progress=progress
        )

        assert len(told) == 4
        assert all(n_steps == n_done for _, n_steps, n_done in told)

    def test_cases_of_another_catalogue_are_refused(self, patient: Patient) -> None:
        """Item indices would mean other items."""
        cases = replace(patient.cases, n_items=61)

        with pytest.raises(IncompatibleArtifactError, match="60 items, found 61"):
            find_blame(patient.bundle, patient.widths(8), cases)


def with_layer(
    patient: Patient, widths: NDArray[np.uint8], layer: str, bits: int
) -> NDArray[np.uint8]:
    """Return widths with those of one layer replaced."""
    changed = widths.copy()
    split_by_layer(changed, patient.model.frozen.layers)[layer][:] = bits
    return changed
