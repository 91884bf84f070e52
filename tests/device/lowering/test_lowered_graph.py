# SPDX-License-Identifier: Apache-2.0
"""Graphs of a bundle with a kernel for each product: what fits them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError, PocketRecError
from pocketrec_device.lowering.channels import FrozenStore, PlanSource
from pocketrec_device.lowering.kernels import KERNELS
from pocketrec_device.lowering.lowered_graph import LoweredGraph, MadeTensors, Template
from pocketrec_quantization.bundle import PREFILL, STEP
from pocketrec_quantization.graph_contract import GRAPH_CONTRACT_KEY, stacked_layers
from pocketrec_quantization.layers import split_by_layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.plan import Plan

QKV = "weights/blocks.0.q+blocks.0.k+blocks.0.v"


@pytest.fixture
def template(model: TinyModel) -> Template:
    """The step of the tiny model."""
    return Template(model.graphs[STEP], STEP)


@pytest.fixture
def source_of(model: TinyModel, template: Template) -> Callable[[Plan], PlanSource]:
    """Makes the tiny model's weights under a plan."""
    store = FrozenStore(model.frozen, [product.name for product in template.products])
    return lambda plan: store.under(plan.widths)


def everywhere(kernel: str, template: Template) -> dict[str, str]:
    """Choose one kernel for every product."""
    return {product.name: kernel for product in template.products}


def exchanged(plan: Plan, one: int, other: int) -> Plan:
    """Return a plan with the codes of two channels exchanged; they must differ."""
    codes = plan.codes.copy()
    assert codes[one] != codes[other]
    codes[[one, other]] = codes[[other, one]]
    return replace(plan, codes=codes)


def first_differing(plan: Plan, layer: str, another: str) -> tuple[int, int]:
    """Return two channels of different codes, one of each layer."""
    places = split_by_layer(np.arange(plan.codes.size), plan.layers)
    for one in places[layer]:
        for other in places[another]:
            if plan.codes[one] != plan.codes[other]:
                return int(one), int(other)
    raise AssertionError("the plan is uniform")


class TestFits:
    @pytest.mark.parametrize(
        ("layer", "another"), [("blocks.0.o", "blocks.0.o"), ("blocks.0.q", "blocks.0.v")]
    )
    def test_plans_of_the_same_counts(
        self,
        template: Template,
        source_of: Callable[[Plan], PlanSource],
        model: TinyModel,
        layer: str,
        another: str,
    ) -> None:
        """Which channels of a product have which width is data, also across stacked layers."""
        plan = model.mixed_plan()
        lowered = template.lower(everywhere("packed", template), source_of(plan))

        assert lowered.fits(source_of(plan))
        assert lowered.fits(source_of(exchanged(plan, *first_differing(plan, layer, another))))

    def test_no_other_plans(
        self, template: Template, source_of: Callable[[Plan], PlanSource], model: TinyModel
    ) -> None:
        """One channel more of a width is another graph, even if elsewhere there is one less."""
        plan = model.mixed_plan()
        lowered = template.lower(everywhere("packed", template), source_of(plan))
        moved = exchanged(plan, *first_differing(plan, "blocks.0.q", "blocks.0.o"))

        assert not lowered.fits(source_of(moved))
        assert not lowered.fits(source_of(model.plan()))

    @pytest.mark.parametrize("kernel", ["fp32", "int8"])
    def test_any_plan_where_widths_are_data(
        self,
        template: Template,
        source_of: Callable[[Plan], PlanSource],
        model: TinyModel,
        kernel: str,
    ) -> None:
        """Kernels that keep all channels alike take every plan."""
        lowered = template.lower(everywhere(kernel, template), source_of(model.plan()))

        assert lowered.fits(source_of(model.mixed_plan()))

    def test_one_packed_product_decides(
        self, template: Template, source_of: Callable[[Plan], PlanSource], model: TinyModel
    ) -> None:
        """With kernels mixed, only the slots of packed products count."""
        kernels = everywhere("fp32", template) | {QKV: "packed"}
        plan = model.mixed_plan()
        lowered = template.lower(kernels, source_of(plan))
        inside = exchanged(plan, *first_differing(plan, "blocks.0.o", "blocks.1.q"))
        across = exchanged(plan, *first_differing(plan, "blocks.0.q", "blocks.0.o"))

        assert lowered.kernels == kernels
        assert lowered.fits(source_of(inside))
        assert not lowered.fits(source_of(across))


class TestFiles:
    @pytest.mark.parametrize("kernel", list(KERNELS))
    def test_inputs_are_the_values_of_a_plan(
        self,
        template: Template,
        source_of: Callable[[Plan], PlanSource],
        model: TinyModel,
        kernel: str,
    ) -> None:
        """What a plan decides is an input by name, shape and type, or all of it is inside."""
        source = source_of(model.mixed_plan())
        lowered = template.lower(everywhere(kernel, template), source)
        tensors = lowered.tensors(source)

        outside = onnx.load_from_string(lowered.with_inputs())
        inside = onnx.load_from_string(lowered.with_constants(tensors))

        others = {"x", "blocks.0.keys", "blocks.0.values", "blocks.0.bias"}
        others |= {name.replace("0", "1") for name in others}
        declared = {entry.name: entry.type.tensor_type for entry in outside.graph.input}
        assert declared.keys() == others | tensors.keys()
        varying = set()
        for name, array in tensors.items():
            assert helper.tensor_dtype_to_np_dtype(declared[name].elem_type) == array.dtype
            for size, found in zip(declared[name].shape.dim, array.shape, strict=True):
                assert size.dim_param or size.dim_value == found
                varying.add(size.dim_param)
        pairs = ("blocks.0.ffn", "blocks.1.ffn")
        sides = {f"weights/{pair}{side}" for pair in pairs for side in ("1.channels", "2.inputs")}
        assert varying == {"", *(() if kernel == "packed" else sides)}
        assert {entry.name for entry in inside.graph.input} == others
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in inside.graph.initializer}
        for name, array in tensors.items():
            np.testing.assert_array_equal(constants[name], array)

    @pytest.mark.parametrize("kernel", list(KERNELS))
    def test_both_files_compute_the_same(
        self,
        template: Template,
        source_of: Callable[[Plan], PlanSource],
        model: TinyModel,
        kernel: str,
    ) -> None:
        """Values inside or outside are the same numbers; kernels may round a little apart."""
        source = source_of(model.mixed_plan())
        lowered = template.lower(everywhere(kernel, template), source)
        tensors = lowered.tensors(source)

        apart = run(lowered.with_inputs(), tensors)
        inside = run(lowered.with_constants(tensors), {})

        tolerance = 1e-6 if KERNELS[kernel].is_exact else 0.1
        np.testing.assert_allclose(apart, inside, atol=tolerance)

    def test_values_are_made_once_per_plan(
        self, source_of: Callable[[Plan], PlanSource], template: Template, model: TinyModel
    ) -> None:
        """Functions that multiply by the same stack share its memory."""
        source = source_of(model.mixed_plan())
        step = template.lower(everywhere("packed", template), source)
        again = Template(model.graphs[STEP], STEP)
        other = again.lower(everywhere("packed", again), source)
        made: MadeTensors = {}

        first, second = step.tensors(source, made), other.tensors(source, made)

        assert first.keys() == second.keys()
        assert all(second[name] is array for name, array in first.items())

    def test_a_template_can_be_lowered_again(
        self, template: Template, source_of: Callable[[Plan], PlanSource], model: TinyModel
    ) -> None:
        """Lowering leaves the template as it is."""
        source = source_of(model.plan())
        before = template.lower(everywhere("fp32", template), source).with_inputs()

        template.lower(everywhere("packed", template), source)
        template.lower(everywhere("int8", template), source)

        assert template.lower(everywhere("fp32", template), source).with_inputs() == before


def run(graph: bytes, tensors: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Run a lowered step on random inputs, and return h."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        entry.name: tensors.get(entry.name, rng.standard_normal(entry.shape).astype(np.float32))
        if entry.name in tensors
        else rng.standard_normal(entry.shape).astype(np.float32)
        for entry in session.get_inputs()
        if entry.name not in tensors
    }
    (h,) = session.run(["h"], feeds | tensors)
    assert isinstance(h, np.ndarray)
    return h


class TestRefusals:
    @pytest.mark.parametrize("part", [STEP, PREFILL])
    @pytest.mark.parametrize(
        "change",
        ["another operator", "as left side", "bias from outside", "used twice", "transposed"],
    )
    def test_weights_must_feed_one_plain_product(
        self, model: TinyModel, part: str, change: str
    ) -> None:
        """What a kernel could not take the place of is refused, and the input is named."""
        graph = onnx.load_from_string(model.graphs[part])
        name = "weights/blocks.1.o"
        (product,) = (each for each in graph.graph.node if name in each.input)
        match change:
            case "another operator":
                product.op_type = "MatMul"
                del product.input[2]
            case "as left side":
                product.input[0], product.input[1] = product.input[1], product.input[0]
            case "bias from outside":
                product.input[2] = "x"
            case "used twice":
                graph.graph.node.append(helper.make_node("Relu", [name], ["twice"]))
            case _:
                product.attribute.append(helper.make_attribute("transB", 1))

        with pytest.raises(IncompatibleArtifactError, match=rf"{part}.*'{name}'.*build the bundle"):
            Template(graph.SerializeToString(), part)

    @pytest.mark.parametrize("change", ["cut short", "kept as numbers", "of another layer"])
    def test_biases_must_be_whole(self, model: TinyModel, change: str) -> None:
        """A bias that a kernel could not read is refused with the weights it belongs to."""
        graph = onnx.load_from_string(model.graphs[STEP])
        tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
        bias = tensors["weights/blocks.1.o.bias"]
        match change:
            case "cut short":
                bias.raw_data = bias.raw_data[:-1]
            case "kept as numbers":
                bias.float_data.extend(onnx.numpy_helper.to_array(bias).tolist())
                bias.ClearField("raw_data")
            case _:
                bias.CopyFrom(tensors["weights/blocks.1.ffn1.bias"])
                bias.name = "weights/blocks.1.o.bias"

        with pytest.raises(IncompatibleArtifactError, match=r"'weights/blocks\.1\.o'"):
            Template(graph.SerializeToString(), STEP)

    def test_values_that_read_themselves_end(self, model: TinyModel) -> None:
        """A graph that goes in circles is no endless search; ONNX Runtime refuses it later."""
        graph = onnx.load_from_string(model.graphs[STEP])
        for each in graph.graph.node:
            if each.op_type == "Relu":
                each.output[0] = each.input[0]

        assert Template(graph.SerializeToString(), STEP).products

    @pytest.mark.parametrize("shown", ["weights/blocks.0.ffn1/out", "blocks.0.wide"])
    def test_what_others_see_keeps_its_order(self, model: TinyModel, shown: str) -> None:
        """A result may come in another order only if nobody but the next product reads it."""
        graph = onnx.load_from_string(model.graphs[STEP])
        readers = {p.name: p.reader for p in Template(model.graphs[STEP], STEP).products}
        graph.graph.output.append(helper.make_tensor_value_info(shown, 1, [1, 16]))

        found = {p.name: p.reader for p in Template(graph.SerializeToString(), STEP).products}

        assert readers == {
            **dict.fromkeys(readers, ""),
            "weights/blocks.0.ffn1": "weights/blocks.0.ffn2",
            "weights/blocks.1.ffn1": "weights/blocks.1.ffn2",
        }
        assert found == {**readers, "weights/blocks.0.ffn1": ""}

    @pytest.mark.parametrize("contract", ["1", "3", "", None])
    def test_another_contract_is_refused(self, model: TinyModel, contract: str | None) -> None:
        """Graphs of an older or newer release say so, and both ways out are named."""
        graph = onnx.load_from_string(model.graphs[STEP])
        del graph.metadata_props[:]
        if contract is not None:
            helper.set_model_props(graph, {GRAPH_CONTRACT_KEY: contract})

        with pytest.raises(IncompatibleArtifactError, match=r"contract 2.*build.*update") as caught:
            Template(graph.SerializeToString(), STEP)

        assert repr("none" if contract is None else contract) in str(caught.value)

    def test_bytes_that_cannot_be_read_are_malformed(self) -> None:
        """The part is named."""
        with pytest.raises(MalformedArtifactError, match=STEP):
            Template(b"\xff" * 40, STEP)

    @given(st.binary(max_size=200))
    def test_no_bytes_raise_anything_else(self, data: bytes) -> None:
        """Whatever lies in place of a graph, the error is ours."""
        with pytest.raises(PocketRecError):
            Template(data, STEP)

    @given(st.data())
    def test_a_damaged_graph_raises_nothing_else(
        self, model: TinyModel, data: st.DataObject
    ) -> None:
        """A graph with a few bytes changed is read or refused."""
        graph = bytearray(model.graphs[STEP])
        for _ in range(data.draw(st.integers(1, 4))):
            graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))

        try:
            template = Template(bytes(graph), STEP)
        except PocketRecError:
            return
        names = {name for product in template.products for name in stacked_layers(product.name)}
        assert len(names) <= len(model.frozen.layers)


def test_the_lowered_graph_is_what_is_exported(
    template: Template, source_of: Callable[[Plan], PlanSource], model: TinyModel
) -> None:
    """In float32 with plain inputs, a lowered step has the nodes of the bundle's, less copies."""
    source = source_of(model.plan())
    lowered = template.lower(everywhere("fp32", template), source)
    assert isinstance(lowered, LoweredGraph)

    plain = onnx.load_from_string(model.graphs[STEP]).graph
    found = onnx.load_from_string(lowered.with_inputs()).graph

    kept = [each.output[0] for each in plain.node if each.op_type != "Concat"]
    assert [each.output[0] for each in found.node] == kept
