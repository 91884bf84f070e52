# SPDX-License-Identifier: Apache-2.0
"""Which sessions plans share, and that sharing mixes nothing up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from pocketrec_device.backends import build_backend
from pocketrec_device.backends.onnx import OnnxBackend
from pocketrec_device.backends.onnx_program import OnnxProgram
from pocketrec_device.lowering.tuning import Tuning
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every session that is made from now on."""
    sessions: list[Any] = []
    honest = onnxruntime.InferenceSession

    def make(*arguments: Any, **keywords: Any) -> Any:
        sessions.append(honest(*arguments, **keywords))
        return sessions[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    return sessions


def same_counts(plan: Plan) -> Plan:
    """Return another plan whose products have as many channels of every width."""
    codes = plan.codes.copy()
    for layer in split_by_layer(codes, plan.layers).values():
        layer[:] = layer[::-1].copy()
    assert not np.array_equal(codes, plan.codes)
    return replace(plan, codes=codes)


def sessions_of(backend: OnnxBackend) -> list[Any]:
    """Return the sessions that a backend runs."""
    return [backend.binding(name)[0] for name in backend.program.functions]


def history() -> NDArray[np.float32]:
    """Return twelve random events."""
    return np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)


def assert_computes(backend: OnnxBackend, plan: Plan, model: TinyModel) -> None:
    """Compare a history with the reference: a prefill and steps."""
    reference = ReferenceBackend.from_model(model.frozen, plan.widths, backend.backbone)
    session = backend.new_state()
    session.observe(history())
    expected = reference.full_history(history()).h
    if backend.is_exact:
        np.testing.assert_allclose(session.h, expected, atol=2e-5)
    else:
        assert np.std(session.h - expected) <= 0.2 * np.std(expected)


class TestSharing:
    @pytest.mark.parametrize("compute", ["fp32", "int8"])
    def test_plans_are_values_of_one_session(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any], compute: str
    ) -> None:
        """With inputs for plans, another plan makes no session, and both go on computing."""
        program = OnnxProgram(bundle, compute=compute, swap="adapter")
        plans = (model.plan(), model.mixed_plan())

        backends = [OnnxBackend.of_plan(program, plan) for plan in plans]

        assert len(made) == 2
        assert sessions_of(backends[0]) == sessions_of(backends[1]) == made
        for _ in range(2):
            for backend, plan in zip(backends, plans, strict=True):
                assert_computes(backend, plan, model)
        assert len(made) == 2

    def test_packed_plans_share_what_has_their_counts(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any]
    ) -> None:
        """Plans with the same slots are values of one session; others get a new one."""
        program = OnnxProgram(bundle, compute="packed", swap="adapter")
        plans = (model.mixed_plan(), same_counts(model.mixed_plan()), model.plan())

        backends = [OnnxBackend.of_plan(program, plan) for plan in plans]

        first, second, other = (sessions_of(backend) for backend in backends)
        assert first == second == made[:1]
        assert other == made[1:]
        assert len(made) == 2
        for backend, plan in zip(backends, plans, strict=True):
            assert_computes(backend, plan, model)

    def test_pruned_plans_run_packed_too(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any]
    ) -> None:
        """Plans with channels of 0 bits have slots of their own."""
        program = OnnxProgram(bundle, compute="packed", swap="adapter")
        saver = replace(model.mixed_plan(), levels=replace(model.plan().levels, bits=(0, 0, 2, 4)))
        plans = (saver, same_counts(saver))

        backends = [OnnxBackend.of_plan(program, plan) for plan in plans]

        assert len(made) == 1
        for backend, plan in zip(backends, plans, strict=True):
            assert 0 in plan.widths
            assert_computes(backend, plan, model)

    @pytest.mark.parametrize("compute", ["fp32", "int8", "packed"])
    def test_rebuilding_gives_each_plan_its_own(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any], compute: str
    ) -> None:
        """With values inside, every plan is a session, and the old ones stay."""
        program = OnnxProgram(bundle, compute=compute, swap="rebuild")
        plans = (model.mixed_plan(), same_counts(model.mixed_plan()))

        backends = [OnnxBackend.of_plan(program, plan) for plan in plans]

        assert len(made) == len(plans) * len(program.functions)
        assert not {*map(id, sessions_of(backends[0]))} & {*map(id, sessions_of(backends[1]))}
        for backend, plan in zip(backends, plans, strict=True):
            assert_computes(backend, plan, model)

    @pytest.mark.parametrize("swap", ["adapter", "rebuild"])
    def test_sessions_of_users_make_none(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any], swap: str
    ) -> None:
        """Any number of histories run on what a backend has."""
        backend = OnnxBackend.of_plan(OnnxProgram(bundle, compute="fp32", swap=swap), model.plan())
        n_made = len(made)

        for n_events in (1, 3, 5, 8):
            backend.new_state().observe(history()[:n_events])

        assert len(made) == n_made


class TestAuto:
    @pytest.fixture
    def tuned(self, tmp_path: Path) -> Callable[[float, float], Path]:
        """Writes a tuning file that says what plans as inputs and as constants take."""

        def write(inputs_us: float, constants_us: float) -> Path:
            file = tmp_path / "tuning.json"
            tuning = Tuning.for_this_device(1, file)
            for name in ("step", "full"):
                tuning.measured(
                    f"{name}, D 8, L 5, blocks 2",
                    {"inputs": lambda: inputs_us, "constants": lambda: constants_us},
                )
            return file

        return write

    @pytest.mark.parametrize(
        ("inputs_us", "constants_us", "n_sessions"), [(10, 20, 2), (10.5, 10, 2), (10.6, 10, 4)]
    )
    def test_shares_where_that_costs_little(
        self,
        bundle: BundleFolder,
        model: TinyModel,
        made: list[Any],
        tuned: Callable[[float, float], Path],
        inputs_us: float,
        constants_us: float,
        n_sessions: int,
    ) -> None:
        """Known times decide whether two plans need two sessions or four."""
        program = OnnxProgram(bundle, compute="fp32", tuning_file=tuned(inputs_us, constants_us))

        for plan in (model.plan(), model.mixed_plan()):
            OnnxBackend.of_plan(program, plan)

        assert len(made) == n_sessions

    @pytest.mark.parametrize("compute", ["int8", "packed"])
    def test_never_shares_kernels_that_are_fast_as_constants_only(
        self,
        bundle: BundleFolder,
        model: TinyModel,
        made: list[Any],
        tuned: Callable[[float, float], Path],
        compute: str,
    ) -> None:
        """Nothing is measured for those."""
        program = OnnxProgram(bundle, compute=compute, tuning_file=tuned(1, 100))

        for plan in (model.mixed_plan(), same_counts(model.mixed_plan())):
            OnnxBackend.of_plan(program, plan)

        assert len(made) == 2 * len(program.functions)

    def test_what_was_measured_is_kept(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any], tmp_path: Path
    ) -> None:
        """The first start measures whole functions, the next one only reads."""
        file = tmp_path / "tuning.json"

        OnnxBackend.of_plan(OnnxProgram(bundle, tuning_file=file), model.plan())
        n_first = len(made)
        OnnxBackend.of_plan(OnnxProgram(bundle, tuning_file=file), model.plan())

        assert n_first == 6  # two candidates and the one that is used, per function
        assert len(made) == n_first + 2
        assert set(json.loads(file.read_bytes())["times_us"]) == {
            "step, D 8, L 5, blocks 2",
            "full, D 8, L 5, blocks 2",
        }


class TestBuilding:
    def test_a_backend_like_another_shares_its_program(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any]
    ) -> None:
        """Parsing, frozen weights and sessions are not made again for another plan."""
        settings = EngineSettings(compute="fp32", swap="adapter")
        first = build_backend(bundle, model.plan(), settings)

        second = build_backend(bundle, model.mixed_plan(), settings, like=first)

        assert isinstance(first, OnnxBackend)
        assert isinstance(second, OnnxBackend)
        assert second.program is first.program
        assert len(made) == 2
        assert_computes(second, model.mixed_plan(), model)
        assert_computes(first, model.plan(), model)

    def test_a_backend_of_another_kind_shares_nothing(
        self, bundle: BundleFolder, model: TinyModel
    ) -> None:
        """The reference has no program to share."""
        numpy = build_backend(bundle, model.plan(), EngineSettings(backend="numpy"))

        found = build_backend(bundle, model.mixed_plan(), EngineSettings(), like=numpy)

        assert found.name == "onnxruntime"

    @pytest.mark.parametrize("swap", ["auto", "adapter", "rebuild"])
    def test_the_float_control_is_not_shared_with_plans(
        self, bundle: BundleFolder, model: TinyModel, swap: str
    ) -> None:
        """Float weights go the same ways as a plan's, and change no plan's results."""
        program = OnnxProgram(bundle, compute="fp32", swap=swap)
        planned = OnnxBackend.of_plan(program, model.mixed_plan())
        weights = model.frozen.adapt(model.plan().widths)

        control = OnnxBackend.of_floats(program, model.mixed_plan(), weights)

        assert_computes(control, model.plan(), model)
        assert_computes(planned, model.mixed_plan(), model)

    def test_threads_reach_the_library(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any]
    ) -> None:
        """A session runs on as many threads as the app allows."""
        settings = EngineSettings(threads=2, compute="fp32", swap="adapter")

        build_backend(bundle, model.plan(), settings)

        assert {each.get_session_options().intra_op_num_threads for each in made} == {2}


class TestHistories:
    def test_packed_programs_have_a_step_only(
        self, bundle: BundleFolder, model: TinyModel, made: list[Any]
    ) -> None:
        """No second copy of the weights for histories, which are taken in event by event."""
        backend = OnnxBackend.of_plan(OnnxProgram(bundle, compute="packed"), model.mixed_plan())

        backend.new_state().observe(history())

        assert not backend.takes_histories
        assert len(made) == 1

    def test_full_biases_are_made_once(self, bundle: BundleFolder) -> None:
        """The usual history of a cold start shares its biases; others make their own."""
        histories = OnnxProgram(bundle, compute="fp32", swap="adapter").attention

        assert histories is not None
        assert histories.bias_of(5) is histories.bias_of(5)
        assert histories.bias_of(3) is not histories.bias_of(3)
        assert histories.function_of(3) == histories.function_of(5) == "full"  # too short to cut
