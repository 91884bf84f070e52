# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.device.conftest import CASER, CONFIG, tiny_model

from pocketrec.errors import ConfigError
from pocketrec_device.debugging.profile import Profile, ProfileOptions, summarise_operators
from pocketrec_device.debugging.profiling import profile_backend
from pocketrec_quantization.bundle import DEFAULT_PLAN, PROGRAM, BundleFolder
from pocketrec_quantization.plan import encode_plan

HISTORY = np.array([1, 2, 3, 4, 5, 6], np.int32)
CONFIGS = {"sasrec": CONFIG, "caser": CASER}


def profile(bundle: BundleFolder, compute: str = "fp32", n_runs: int = 6) -> Profile:
    """Profile ONNX Runtime, two calls of warm-up."""
    plan = tiny_model(0, bundle.manifest.backbone).mixed_plan()
    options = ProfileOptions(compute=compute, n_warmup=2, n_runs=n_runs)
    return profile_backend("onnxruntime", bundle, plan, HISTORY, options)


class TestOnnxRuntime:
    @pytest.mark.parametrize("kind", sorted(CONFIGS))
    def test_every_layer_is_in_a_step(
        self, make_bundle: Callable[..., BundleFolder], kind: str
    ) -> None:
        """Under its name, or beside others that are multiplied at once."""
        found = profile(make_bundle(config=CONFIGS[kind]))

        step = next(each for each in found.functions if each.function == "step")
        nodes = {each.node for each in step.operators if "Gemm" in each.operator}
        stacked = {"blocks.0.q+k+v", "blocks.1.q+k+v"}
        layers = {layer.name for layer in tiny_model(0, CONFIGS[kind]).frozen.layers}
        assert nodes >= {layer for layer in layers if layer[-1] not in "qkv"}
        assert kind == "caser" or nodes >= stacked
        assert step.n_calls == 6
        assert step.call_us is not None
        assert sum(each.share for each in step.operators) == pytest.approx(1)

    def test_a_history_and_a_step_are_profiled_apart(
        self, make_bundle: Callable[..., BundleFolder]
    ) -> None:
        """Each was called as often."""
        found = profile(make_bundle())

        assert [(each.function, each.n_calls) for each in found.functions] == [
            ("history", 6),
            ("step", 6),
        ]
        assert found.tracer == "ONNX Runtime's profiler"

    def test_packed_takes_events_one_by_one(self, make_bundle: Callable[..., BundleFolder]) -> None:
        """A round is as many steps as events: the last five here."""
        found = profile(make_bundle(), compute="packed")

        (step,) = found.functions
        assert step.n_calls == 6 * 5
        assert "MatMulNBits" in {each.operator for each in step.operators}


@pytest.mark.slow
@pytest.mark.executorch
@pytest.mark.filterwarnings("ignore")  # the library's own, from its import on
class TestExecuTorch:
    @pytest.mark.parametrize(
        ("kind", "fixture", "functions"),
        [("sasrec", "program", ["history", "step"]), ("caser", "caser_program", ["step"])],
    )
    def test_delegates_and_operators_are_timed(
        self,
        make_bundle: Callable[..., BundleFolder],
        request: pytest.FixtureRequest,
        kind: str,
        fixture: str,
        functions: list[str],
    ) -> None:
        """What XNNPACK computes is one row per delegate, which names it."""
        plan = tiny_model(0, CONFIGS[kind]).mixed_plan(
            subject="", version=0, key_id=b"", expires_at_s=0
        )
        parts = {PROGRAM: request.getfixturevalue(fixture), DEFAULT_PLAN: encode_plan(plan, None)}
        bundle = make_bundle(config=CONFIGS[kind], parts=parts)
        options = ProfileOptions(n_warmup=1, n_runs=3)

        found = profile_backend("executorch", bundle, plan, HISTORY, options)

        assert [each.function for each in found.functions] == functions
        for function in found.functions:
            delegates = [each for each in function.operators if each.operator == "XNNPACK"]
            assert any("Fully Connected" in each.node for each in delegates)
            assert all(each.p50_us > 0 for each in delegates)
            assert function.call_us is not None


class TestSummary:
    def test_times_are_trimmed_and_shared_out(self) -> None:
        """Of ten calls the fastest and the slowest do not count: 3 and 1 are three to one."""
        slow = [0.0, *[3.0] * 8, 1000.0]
        fast = [0.0, *[1.0] * 8, 1000.0]

        first, second = summarise_operators([("Gemm", "a", slow), ("Add", "b", fast)])

        assert (first.operator, first.node, first.p50_us, first.trimmed_us) == ("Gemm", "a", 3, 3)
        assert (first.share, second.share) == (0.75, 0.25)


class TestRefusals:
    def test_numpy_has_no_tracer(self, bundle: BundleFolder) -> None:
        """The message names those that have."""
        plan = tiny_model(0).plan()

        with pytest.raises(ConfigError, match="onnxruntime"):
            profile_backend("numpy", bundle, plan, HISTORY, ProfileOptions())

    @pytest.mark.parametrize("wrong", [{"n_runs": 0}, {"threads": 0}, {"n_warmup": -1}])
    def test_counts_that_make_no_sense(self, wrong: dict[str, int]) -> None:
        """Without calls there is nothing to summarise."""
        with pytest.raises(ConfigError, match="at least 1"):
            ProfileOptions(**wrong)
