# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.device.conftest import CASER, CONFIG, tiny_model

from pocketrec.errors import ConfigError
from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_device.debugging.divergence import Divergence, find_divergence
from pocketrec_device.debugging.values import value_names
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.bundle import DEFAULT_PLAN, GRAPH_PARTS, PROGRAM, BundleFolder
from pocketrec_quantization.plan import encode_plan

HISTORIES = [np.array(items, np.int32) for items in ([3], [1, 2, 3, 4, 5, 6], [7, 8, 9, 10])]
CONFIGS = {"sasrec": CONFIG, "caser": CASER}

# What is changed in the graphs, and the first value that shows it.
PLANTED = [
    ("sasrec", "blocks.0.attn_norm.weight", "blocks.0.attn_in"),
    ("sasrec", "blocks.0.v.bias", "blocks.0.v"),
    ("sasrec", "blocks.0.ffn_norm.bias", "blocks.0.ffn_in"),
    ("sasrec", "blocks.1.o.bias", "blocks.1.o"),
    ("sasrec", "blocks.1.ffn2.bias", "blocks.1.ffn2"),
    ("sasrec", "final_norm.bias", "h"),
    ("caser", "horizontal.2.bias", "horizontal.2"),
    ("caser", "vertical.bias", "vertical"),
    ("caser", "fc.bias", "fc"),
]


def compare(bundle: BundleFolder, **options: Any) -> Divergence:
    """Compare under a plan of all widths."""
    model = tiny_model(0, bundle.manifest.backbone)
    return find_divergence(bundle, model.mixed_plan(), HISTORIES, **options)


def spoiled_graphs(
    config: BackboneConfig, name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> dict[str, bytes]:
    """Return the graphs of a model one of whose dense tensors went wrong on its way."""
    dense = dict(tiny_model(0, config).frozen.dense)
    dense[name] = change(dense[name])
    return {GRAPH_PARTS[key]: graph for key, graph in write_graphs(dense, config).items()}


class TestAgreement:
    @pytest.mark.parametrize("kind", sorted(CONFIGS))
    def test_the_reference_and_onnx_runtime_agree(
        self, make_bundle: Callable[..., BundleFolder], kind: str
    ) -> None:
        """In every value that both show, in the order of computation."""
        config = CONFIGS[kind]

        found = compare(make_bundle(config=config))

        assert found.first is None
        assert found.n_histories == len(HISTORIES)
        steps = [each for each in found.comparisons if each.function == "step"]
        names = [each.value for each in steps]
        order = [name for name in value_names(config) if name in names]
        assert names == order
        assert {layer.name for layer in tiny_model(0, config).frozen.layers} <= set(names)
        assert all(each.error is not None and each.error < 1e-5 for each in found.comparisons)

    def test_histories_are_compared_too(self, make_bundle: Callable[..., BundleFolder]) -> None:
        """Before the step that follows."""
        found = compare(make_bundle())

        functions = [each.function for each in found.comparisons]
        assert functions == sorted(functions)
        assert set(functions) == {"history", "step"}

    @pytest.mark.parametrize("kind", sorted(CONFIGS))
    def test_channels_that_stay_grouped_are_put_in_order(
        self, make_bundle: Callable[..., BundleFolder], kind: str
    ) -> None:
        """Packed products differ by the rounding of their inputs, and by no permutation."""
        found = compare(make_bundle(config=CONFIGS[kind]), right="onnxruntime:packed")

        products = [each for each in found.comparisons if each.right_operator == "MatMulNBits"]
        assert products
        assert all(each.error is not None and each.error < 0.1 for each in found.comparisons)

    @pytest.mark.slow
    @pytest.mark.executorch
    @pytest.mark.filterwarnings("ignore")  # the library's own, from its import on
    @pytest.mark.parametrize(
        ("kind", "fixture"), [("sasrec", "program"), ("caser", "caser_program")]
    )
    def test_executorch_shows_what_its_methods_return(
        self,
        make_bundle: Callable[..., BundleFolder],
        request: pytest.FixtureRequest,
        kind: str,
        fixture: str,
    ) -> None:
        """Keys, values and states of every function, and they agree."""
        plan = tiny_model(0, CONFIGS[kind]).mixed_plan(
            subject="", version=0, key_id=b"", expires_at_s=0
        )
        parts = {PROGRAM: request.getfixturevalue(fixture), DEFAULT_PLAN: encode_plan(plan, None)}
        bundle = make_bundle(config=CONFIGS[kind], parts=parts)

        found = find_divergence(bundle, plan, HISTORIES, right="executorch")

        shown = {each.value for each in found.comparisons}
        attention = {f"blocks.{block}.{name}" for block in (0, 1) for name in "kv"}
        assert shown == ({"h"} if kind == "caser" else {*attention, "h"})
        assert found.first is None


class TestPlantedFault:
    @pytest.mark.parametrize(("kind", "tensor", "value"), PLANTED)
    def test_the_first_value_that_differs_is_named(
        self, make_bundle: Callable[..., BundleFolder], kind: str, tensor: str, value: str
    ) -> None:
        """A constant of the graphs is not the one of the weights."""
        graphs = spoiled_graphs(CONFIGS[kind], tensor, lambda array: array + np.float32(0.05))

        found = compare(make_bundle(config=CONFIGS[kind], parts=graphs))

        assert found.first is not None
        assert found.first.value == value
        assert found.first.is_beyond
        order = list(value_names(CONFIGS[kind]))
        before = order[: order.index(value)]
        assert not [
            each
            for each in found.comparisons
            if each.function == found.first.function and each.value in before and each.is_beyond
        ]

    def test_a_kernel_that_rounds_is_named(self, make_bundle: Callable[..., BundleFolder]) -> None:
        """The first product of an int8 model differs, by what its inputs lose."""
        found = compare(make_bundle(), right="onnxruntime:int8")

        assert found.first is not None
        assert found.first.value == "blocks.0.q"
        assert found.first.right_operator == "DynamicQuantizeMatMul"
        assert found.first.left_operator == "NumPy"

    def test_what_is_no_number_is_beyond_any_tolerance(
        self, make_bundle: Callable[..., BundleFolder]
    ) -> None:
        """There is nothing to compare it with."""
        graphs = spoiled_graphs(CONFIG, "blocks.0.o.bias", lambda array: array * np.float32(np.inf))

        found = compare(make_bundle(parts=graphs), tolerance=1e30)

        assert found.first is not None
        assert (found.first.value, found.first.error, found.first.worst) == (
            "blocks.0.o",
            None,
            None,
        )

    def test_a_wider_tolerance_lets_it_pass(self, make_bundle: Callable[..., BundleFolder]) -> None:
        """What differs is shown all the same."""
        found = compare(make_bundle(), right="onnxruntime:int8", tolerance=1.0)

        assert found.first is None
        assert max(each.error or 0 for each in found.comparisons) > 1e-4


class TestRefusals:
    @pytest.mark.parametrize("name", ["onnx", "numpy:fp32", "onnxruntime:fp16", ""])
    def test_there_is_no_such_backend(self, bundle: BundleFolder, name: str) -> None:
        """The message lists those there are."""
        with pytest.raises(ConfigError, match="onnxruntime:COMPUTE"):
            compare(bundle, right=name)

    def test_nothing_to_compare_by(self, bundle: BundleFolder) -> None:
        """No histories, or a tolerance of nothing."""
        with pytest.raises(ConfigError, match="histories"):
            find_divergence(bundle, tiny_model(0).plan(), [])
        with pytest.raises(ConfigError, match="above 0"):
            compare(bundle, tolerance=0.0)
        with pytest.raises(ConfigError, match="finite"):
            compare(bundle, tolerance=math.inf)
