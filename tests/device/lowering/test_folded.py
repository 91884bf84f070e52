# SPDX-License-Identifier: Apache-2.0
"""Graphs without what pruned channels would compute: found in them, and left out of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from tests.device.conftest import CASER, CONFIG, TinyModel, tiny_model

from pocketrec_device.backends.attention_histories import AttentionHistories
from pocketrec_device.lowering.channels import FloatSource, FrozenStore, PlanSource
from pocketrec_device.lowering.kernels import KERNELS, Tensors
from pocketrec_device.lowering.lowered_graph import LoweredGraph, Template
from pocketrec_quantization.attention_bias import stack_relative_bias
from pocketrec_quantization.backbone import layer_feeds
from pocketrec_quantization.bundle import PREFILL, STEP
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.layers import split_by_layer, total_channels
from pocketrec_quantization.references import reference_of

CONFIGS = {"sasrec": CONFIG, "caser": CASER}
FUNCTIONS = {"sasrec": PREFILL, "caser": STEP}
FFN = ("weights/blocks.0.ffn1", "weights/blocks.0.ffn2")


@cache
def template_of(kind: str) -> Template:
    """What takes in a whole history of a tiny model."""
    return Template(tiny_model(0, CONFIGS[kind]).graphs[FUNCTIONS[kind]], FUNCTIONS[kind])


def source_of(kind: str, widths: NDArray[np.uint8]) -> PlanSource:
    """The weights of a tiny model at some widths."""
    names = [product.name for product in template_of(kind).products]
    return FrozenStore(tiny_model(0, CONFIGS[kind]).frozen, names).under(widths)


def widths_of(kind: str, seed: int, pruned: float) -> NDArray[np.uint8]:
    """Return random widths, of which a share is 0."""
    rng = np.random.default_rng(seed)
    n_channels = total_channels(tiny_model(0, CONFIGS[kind]).frozen.layers)
    widths = rng.choice(np.array([2, 4, 8], np.uint8), n_channels)
    widths[rng.random(widths.size) < pruned] = 0
    return widths


def session_of(graph: bytes) -> onnxruntime.InferenceSession:
    """Load a graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def inputs_of(kind: str) -> Tensors:
    """Return a random history, and what else no plan gives."""
    rng = np.random.default_rng(3)
    model = tiny_model(0, CONFIGS[kind])
    x = rng.standard_normal((model.config.window, model.config.embedding_dim), np.float32)
    if kind == "caser":
        return {"window": x}
    relative_bias = stack_relative_bias(model.frozen.dense, model.config.n_blocks)
    return {"x": x, **AttentionHistories(relative_bias).bias_of(len(x))}


def expected_of(kind: str, widths: NDArray[np.uint8], inputs: Tensors) -> NDArray[np.float32]:
    """Return what the reference computes from the same history, nothing left out."""
    model = tiny_model(0, CONFIGS[kind])
    x = inputs["x" if kind == "sasrec" else "window"].astype(np.float32)
    return reference_of(model.frozen, widths, model.config).state_after(x)


def lowered_of(kind: str, kernel: str, source: PlanSource) -> LoweredGraph:
    """Return that function with one kernel for every product."""
    template = template_of(kind)
    return template.lower({product.name: kernel for product in template.products}, source)


class TestFeeds:
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_graphs_feed_as_the_architecture_says(self, kind: str) -> None:
        """What is found in a graph is what the backbone declares, in every function."""
        model = tiny_model(0, CONFIGS[kind])
        parts = [name for name in (STEP, PREFILL) if name in model.graphs]

        for part in parts:
            template = Template(model.graphs[part], part)
            found = {(*map(stacked_layers, (f.layer, f.reader)),): f for f in template.feeds}
            declared = {((f.layer,), (f.reader,)): f for f in layer_feeds(model.config)}
            assert found.keys() == declared.keys()
            for key, feed in declared.items():
                np.testing.assert_array_equal(found[key].columns, feed.columns)
                assert found[key].is_rectified == feed.is_rectified

    @pytest.mark.parametrize("shown", [f"{FFN[0]}/out", "blocks.0.wide"])
    def test_what_others_see_is_left_whole(self, shown: str) -> None:
        """A value that is an output, or that two nodes read, is no constant's hiding place."""
        graph = onnx.load_from_string(tiny_model(0).graphs[STEP])
        for node in (None, helper.make_node("Neg", [shown], ["seen"])):
            seen = onnx.ModelProto.FromString(graph.SerializeToString())
            if node is None:
                seen.graph.output.append(helper.make_tensor_value_info(shown, 1, [1, 16]))
            else:
                seen.graph.node.append(node)

            template = Template(seen.SerializeToString(), STEP)

            assert [feed.layer for feed in template.feeds] == ["weights/blocks.1.ffn1"]

    @pytest.mark.parametrize("operator", ["Sigmoid", "Softmax"])
    def test_other_operators_end_a_trace(self, operator: str) -> None:
        """Only what is known to keep channels apart, and constants constant, is followed."""
        graph = onnx.load_from_string(tiny_model(0).graphs[STEP])
        for each in graph.graph.node:
            if each.op_type == "Relu" and each.output[0] == "blocks.0.wide":
                each.op_type = operator

        template = Template(graph.SerializeToString(), STEP)

        assert [feed.layer for feed in template.feeds] == ["weights/blocks.1.ffn1"]

    def test_columns_beyond_any_matrix_are_not_followed(self) -> None:
        """A graph that lays a value beside itself again and again does not fill the memory."""
        graph = onnx.load_from_string(tiny_model(0).graphs[STEP])
        value = f"{FFN[0]}/out"
        for number in range(60):
            joined = helper.make_node("Concat", [value, value], [f"joined.{number}"], axis=1)
            graph.graph.node.append(joined)
            value = joined.output[0]

        template = Template(graph.SerializeToString(), STEP)

        assert "joined.1" in template.traces
        assert "joined.59" not in template.traces


class TestScores:
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("kind", CONFIGS)
    @given(seed=st.integers(0, 10_000), pruned=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    @example(seed=0, pruned=1.0)
    def test_are_those_of_the_reference(
        self, kind: str, kernel: str, seed: int, pruned: float
    ) -> None:
        """Any channels pruned, none or all: float32 agrees, others within their rounding."""
        widths = widths_of(kind, seed, pruned)
        source = source_of(kind, widths)
        lowered = lowered_of(kind, kernel, source)
        tensors = lowered.tensors(source)

        for graph, given_tensors in (
            (lowered.with_inputs(), tensors),
            (lowered.with_constants(tensors), {}),
        ):
            session = session_of(graph)
            inputs = inputs_of(kind)
            (found,) = session.run(["h"], inputs | given_tensors)
            expected = expected_of(kind, widths, inputs)
            tolerance = 2e-5 if KERNELS[kernel].is_exact else 0.35
            np.testing.assert_allclose(np.ravel(found), expected, atol=tolerance)

    @pytest.mark.parametrize("kernel", ["fp32", "int8"])
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_one_session_serves_every_plan(self, kind: str, kernel: str) -> None:
        """However many channels are off: there and back again, without another session."""
        plans = [widths_of(kind, seed, pruned) for seed, pruned in enumerate((0.0, 0.3, 1.0, 0.6))]
        lowered = lowered_of(kind, kernel, source_of(kind, plans[0]))
        session = session_of(lowered.with_inputs())
        found: dict[int, NDArray[np.float32]] = {}

        for number in (0, 1, 2, 3, 2, 1, 0):
            source = source_of(kind, plans[number])
            assert lowered.fits(source)
            tensors = lowered.tensors(source)
            inputs = inputs_of(kind)
            (h,) = session.run(["h"], inputs | tensors)
            assert isinstance(h, np.ndarray)
            np.testing.assert_array_equal(found.setdefault(number, h), h)
            tolerance = 2e-5 if kernel == "fp32" else 0.35
            expected = expected_of(kind, plans[number], inputs)
            np.testing.assert_allclose(np.ravel(h), expected, atol=tolerance)


class TestFits:
    def test_packed_graphs_fit_plans_of_the_same_counts(self) -> None:
        """Other channels of a pool may be on, another number of them may not."""
        layers = tiny_model(0).frozen.layers
        widths = [np.full(total_channels(layers), 2, np.uint8) for _ in range(3)]
        for each, off in zip(widths, ([0, 3, 4], [7, 8, 9], [5]), strict=True):
            split_by_layer(each, layers)["blocks.1.ffn1"][off] = 0
        lowered = lowered_of("sasrec", "packed", source_of("sasrec", widths[0]))

        assert lowered.fits(source_of("sasrec", widths[1]))
        assert not lowered.fits(source_of("sasrec", widths[2]))

    def test_a_packed_reader_knows_its_inputs(self) -> None:
        """Also where the layer that it reads is not packed."""
        layers = tiny_model(0).frozen.layers
        whole, pruned = (np.full(total_channels(layers), 2, np.uint8) for _ in range(2))
        split_by_layer(pruned, layers)["blocks.0.ffn1"][:5] = 0
        template = template_of("sasrec")
        kernels = {product.name: "fp32" for product in template.products} | {FFN[1]: "packed"}

        lowered = template.lower(kernels, source_of("sasrec", whole))

        assert lowered.fits(source_of("sasrec", whole))
        assert not lowered.fits(source_of("sasrec", pruned))


class TestValues:
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("n_off", [0, 1, 11, 16])
    def test_only_what_is_left_is_given(self, kernel: str, n_off: int) -> None:
        """Rows of the first matrix and columns of the second go; one stays at least."""
        layers = tiny_model(0).frozen.layers
        widths = np.full(total_channels(layers), 8, np.uint8)
        split_by_layer(widths, layers)["blocks.0.ffn1"][:n_off] = 0
        source, n_left = source_of("sasrec", widths), max(1, 16 - n_off)

        lowered = lowered_of("sasrec", kernel, source)

        sides = lowered.kept_sides(source)
        assert (sides[FFN[0]], sides[FFN[1]]) == ((8, n_left), (n_left, 8))
        assert sides["weights/blocks.1.ffn1"] == (8, 16)
        tensors = lowered.tensors(source)
        assert all(array.flags.c_contiguous for array in tensors.values())
        if kernel != "packed":
            assert tensors[FFN[0]].shape == (8, n_left)
            assert tensors[FFN[1]].shape == (n_left, 8)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_what_was_left_out_can_be_asked_for_again(self, kernel: str) -> None:
        """Weights that are folded already are taken as they are, and give the same values."""
        source = source_of("sasrec", widths_of("sasrec", 1, 0.5))
        lowered, folded = lowered_of("sasrec", kernel, source), template_of("sasrec").folded(source)

        first, again, whole = (lowered.tensors(each) for each in (folded, folded, source))

        assert template_of("sasrec").folded(folded) is folded
        assert first.keys() == again.keys() == whole.keys()
        for name, array in whole.items():
            np.testing.assert_array_equal(first[name], array)
            np.testing.assert_array_equal(again[name], array)

    def test_grouped_channels_need_no_gather(self) -> None:
        """Without its pruned channels a product that only feeds another stays grouped."""
        layers = tiny_model(0).frozen.layers
        widths = np.full(total_channels(layers), 8, np.uint8)
        split_by_layer(widths, layers)["blocks.0.ffn1"][:4] = 0, 2, 2, 0

        lowered = lowered_of("sasrec", "packed", source_of("sasrec", widths))

        graph = onnx.load_from_string(lowered.with_inputs()).graph
        made = {each.output[0]: each.op_type for each in graph.node}
        assert made[f"{FFN[0]}/out"] == "Concat"

    def test_floats_have_nothing_to_leave_out(self) -> None:
        """The float control is what it was: whole, with the biases of the graph."""
        model, template = tiny_model(0), template_of("sasrec")
        rng = np.random.default_rng(0)
        weights = {
            f"{layer.name}.weight": rng.standard_normal((layer.n_channels, layer.n_elements))
            for layer in model.frozen.layers
        }
        source = FloatSource({name: each.astype(np.float32) for name, each in weights.items()})

        lowered = template.lower({product.name: "fp32" for product in template.products}, source)

        (first,) = (each for each in template.products if each.name == FFN[0])
        tensors = lowered.tensors(source)
        assert tensors[FFN[0]].shape == (8, 16)
        np.testing.assert_array_equal(tensors[first.bias], first.bias_values)
        assert lowered.layouts(source) == {}


class TestLayouts:
    @pytest.mark.parametrize("kernel", ["fp32", "packed"])
    @pytest.mark.parametrize("kind", CONFIGS)
    @given(seed=st.integers(0, 10_000))
    def test_make_values_whole(self, kind: str, kernel: str, seed: int) -> None:
        """Each column of what is computed has one place, and constants fill the others."""
        model: TinyModel = tiny_model(0, CONFIGS[kind])
        widths = widths_of(kind, seed, 0.4)
        source = source_of(kind, widths)
        lowered = lowered_of(kind, kernel, source)
        by_layer = split_by_layer(widths, model.frozen.layers)

        layouts = lowered.layouts(source)

        for product in lowered.products:
            if product.output in layouts:
                (layer,) = stacked_layers(product.name)
                layout = layouts[product.output]
                on = np.flatnonzero(by_layer[layer])
                assert sorted(layout.places) == (on.tolist() or [0])
                np.testing.assert_array_equal(layout.constants, product.bias_values)
        for layout in layouts.values():
            assert len(set(layout.places)) == len(layout.places) <= len(layout.constants)
