# SPDX-License-Identifier: Apache-2.0
"""The exported functions against torch, which trained them, and against the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from pocketrec.errors import QuantizationError
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_cloud.executorch_program import export_executorch
from pocketrec_cloud.export import coded_names, device_form, with_weights
from pocketrec_cloud.graph_checks import ExecuTorchFunctions, OnnxFunctions
from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_cloud.proving import score_tolerance
from pocketrec_device.attention_state import StateBuffers
from pocketrec_device.backends import build_backend
from pocketrec_device.backends.onnx import OnnxAttentionBackend
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.attention_bias import stack_relative_bias
from pocketrec_quantization.bundle import (
    PREFILL,
    PROGRAM,
    SCORE,
    STEP,
    BundleFolder,
    write_bundle,
)
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from tests.cloud.conftest import Built, Trained


pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = 8
PARTS = {"prefill": PREFILL, "step": STEP, "score": SCORE}


@pytest.fixture(scope="module")
def bundle(tiny_build: Built) -> BundleFolder:
    """The one export of the tiny backbone."""
    return tiny_build.bundle


@pytest.fixture(scope="module")
def reference(bundle: BundleFolder) -> ReferenceBackend:
    """NumPy under the default plan."""
    widths = bundle.read_default_plan().widths
    return ReferenceBackend.from_model(bundle.read_frozen(), widths, bundle.manifest.backbone)


@pytest.fixture(scope="module")
def onnxruntime(bundle: BundleFolder) -> OnnxAttentionBackend:
    """The graphs under the default plan."""
    settings = EngineSettings(compute="fp32")
    backend = build_backend(bundle, bundle.read_default_plan(), settings)
    assert isinstance(backend, OnnxAttentionBackend)
    return backend


@pytest.fixture(scope="module")
def functions(bundle: BundleFolder) -> OnnxFunctions:
    """The graphs as they are in the bundle, under the default plan."""
    weights = bundle.read_frozen().adapt(bundle.read_default_plan().widths)
    graphs = {name: bundle.read(part) for name, part in PARTS.items()}
    return OnnxFunctions(graphs, weights, relative_bias_of(bundle))


@pytest.fixture(scope="module")
def adapted(tiny_training: Trained, bundle: BundleFolder) -> SASRec:
    """Torch under the default plan, embeddings as the device has them."""
    weights = bundle.read_frozen().adapt(bundle.read_default_plan().widths)
    model = with_weights(device_form(tiny_training.result.model), weights)
    assert isinstance(model, SASRec)
    items = bundle.read_items()
    with torch.no_grad():
        everything = np.arange(items.n_items + 1)
        model.item_embedding.weight.copy_(torch.from_numpy(items.embed(everything)))
    return model


def relative_bias_of(bundle: BundleFolder) -> NDArray[np.float32]:
    """Return the biases by distance."""
    return stack_relative_bias(bundle.read_frozen().dense, bundle.manifest.backbone.n_blocks)


def history(n_events: int) -> NDArray[np.int64]:
    """Return a random history."""
    return np.random.default_rng(n_events).integers(1, 61, n_events)


def torch_state(model: SASRec, items: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return (D,), the state after at most L events."""
    with torch.inference_mode():
        state: NDArray[np.float32] = model.last_states(
            torch.from_numpy(items)[None], torch.tensor([items.shape[0]])
        )[0].numpy()
    return state


def assert_close(
    found: NDArray[np.float32], expected: NDArray[np.float32], bundle: BundleFolder
) -> None:
    """Compare within what float32 may lose."""
    largest = float(np.abs(expected).max())
    tolerance = score_tolerance(bundle.manifest.backbone, largest)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


class TestGraphs:
    @pytest.mark.parametrize("n_events", [1, 2, WINDOW])
    def test_prefill_agrees_everywhere(
        self,
        onnxruntime: OnnxAttentionBackend,
        functions: OnnxFunctions,
        reference: ReferenceBackend,
        adapted: SASRec,
        bundle: BundleFolder,
        n_events: int,
    ) -> None:
        """ONNX Runtime, torch and NumPy give one state; the caches agree too."""
        items = history(n_events)
        x = bundle.read_items().embed(items)

        buffers = StateBuffers.allocate(bundle.manifest.backbone)
        onnxruntime.bind(buffers).prefill(x, 0)
        as_in_bundle = functions.prefill(x)

        expected = reference.prefill(x)
        cached = buffers.cache[:, :, :n_events]
        for keys, values, h in ((cached[:, 0], cached[:, 1], buffers.h), as_in_bundle):
            assert_close(keys, expected.keys, bundle)
            assert_close(values, expected.values, bundle)
            assert_close(h[0], expected.h, bundle)
            assert_close(h[0], torch_state(adapted, items), bundle)

    def test_steps_from_an_empty_state_agree_beyond_the_window(
        self,
        onnxruntime: OnnxAttentionBackend,
        reference: ReferenceBackend,
        adapted: SASRec,
        bundle: BundleFolder,
    ) -> None:
        """Event by event, also once the ring wraps, the state is that of the whole history."""
        items = history(2 * WINDOW + 3)
        x = bundle.read_items().embed(items)
        session = onnxruntime.new_state()

        for n_events in range(1, len(items) + 1):
            session.observe(x[n_events - 1 : n_events])

            assert_close(session.h, reference.full_history(x[:n_events]).h, bundle)
            if n_events <= WINDOW:
                assert_close(session.h, torch_state(adapted, items[:n_events]), bundle)

    @pytest.mark.parametrize("n_candidates", [1, 61])
    def test_scores_agree_everywhere(
        self,
        functions: OnnxFunctions,
        reference: ReferenceBackend,
        adapted: SASRec,
        bundle: BundleFolder,
        n_candidates: int,
    ) -> None:
        """One candidate, or the whole catalogue with padding: graph, item table and NumPy."""
        items = bundle.read_items()
        candidates = items.embed(np.arange(n_candidates))
        h = torch_state(adapted, history(5))

        by_graph = functions.score(h[None], candidates)[0]
        by_table = items.gather(np.arange(n_candidates)).scores(h)

        for scores in (by_graph, by_table):
            assert_close(scores, reference.score(h, candidates), bundle)
            assert_close(scores, candidates @ h, bundle)

    @pytest.mark.parametrize("name", [PREFILL, STEP])
    def test_coded_matrices_are_inputs(
        self, bundle: BundleFolder, tiny_training: Trained, name: str
    ) -> None:
        """A graph asks for every coded matrix by name and shape, for the device to supply."""
        graph = onnx.load_from_string(bundle.read(name)).graph
        sizes = {
            layer.name: (layer.n_elements, layer.n_channels) for layer in bundle.manifest.layers
        }

        asked = {
            stacked_layers(entry.name): [d.dim_value for d in entry.type.tensor_type.shape.dim]
            for entry in graph.input
            if stacked_layers(entry.name)
        }

        for stacked, (n_inputs, n_outputs) in asked.items():
            assert {sizes[layer][0] for layer in stacked} == {n_inputs}
            assert sum(sizes[layer][1] for layer in stacked) == n_outputs
        names = coded_names(tiny_training.result.model)
        assert sorted(layer for stacked in asked for layer in stacked) == sorted(names)
        assert [layer.name for layer in bundle.manifest.layers] == names

    def test_scoring_needs_no_matrix(self, bundle: BundleFolder) -> None:
        """Inner products have no weights."""
        graph = onnx.load_from_string(bundle.read(SCORE)).graph

        assert [entry.name for entry in graph.input] == ["h", "candidates"]
        assert not graph.initializer

    @pytest.mark.parametrize("name", [PREFILL, STEP, SCORE])
    def test_no_graph_contains_a_coded_matrix(
        self, bundle: BundleFolder, tiny_training: Trained, name: str
    ) -> None:
        """Neither the float weights nor any row of them are among a graph's bytes."""
        graph = bundle.read(name)

        for layer in coded_names(tiny_training.result.model):
            weight = tiny_training.result.model.get_parameter(f"{layer}.weight")
            for row in weight.detach().numpy():
                assert row.tobytes() not in graph

    @pytest.mark.parametrize("name", [PREFILL, STEP])
    def test_dense_tensors_are_inside(self, bundle: BundleFolder, name: str) -> None:
        """What a plan does not code travels with the graph."""
        graph = bundle.read(name)
        dense = bundle.read_frozen().dense

        for parameter in ("blocks.0.attn_norm.weight", "blocks.1.ffn1.bias"):
            assert dense[parameter].tobytes() in graph


class TestDeviceForm:
    def test_scores_stay_what_they_were(self, tiny_training: Trained) -> None:
        """Moving the input's factor into the embeddings changes no score."""
        model = tiny_training.result.model
        folded = device_form(model)
        items = history(6)

        before = model.item_embedding.weight.detach().numpy() @ torch_state(model, items)
        after = folded.item_embedding.weight.detach().numpy() @ torch_state(folded, items)

        assert folded.input_scale == 1
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)

    def test_the_original_is_left_alone(self, tiny_training: Trained) -> None:
        """The trained model can still be trained."""
        model = tiny_training.result.model
        before = {name: value.clone() for name, value in model.state_dict().items()}

        device_form(model)

        assert model.input_scale == 4
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


class TestWithWeights:
    def test_a_copy_is_changed(self, tiny_training: Trained) -> None:
        """The named matrix is replaced in a copy, everything else stays."""
        model = tiny_training.result.model
        changed = with_weights(model, {"blocks.1.o.weight": np.zeros((16, 16), np.float32)})

        assert not changed.get_parameter("blocks.1.o.weight").any()
        assert model.get_parameter("blocks.1.o.weight").any()
        assert torch.equal(
            changed.get_parameter("blocks.0.o.weight"), model.get_parameter("blocks.0.o.weight")
        )

    @pytest.mark.parametrize(
        ("name", "shape"), [("blocks.9.o.weight", (16, 16)), ("blocks.0.o.weight", (16, 8))]
    )
    def test_what_does_not_fit_is_refused(
        self, tiny_training: Trained, name: str, shape: tuple[int, int]
    ) -> None:
        """The error names the matrix."""
        with pytest.raises(QuantizationError, match=name):
            with_weights(tiny_training.result.model, {name: np.zeros(shape, np.float32)})


class TestOtherExports:
    def test_an_export_can_be_repeated(self, bundle: BundleFolder, tiny_training: Trained) -> None:
        """Equal models give equal bytes, so a bundle that changed in nothing is not sent again."""
        model = device_form(tiny_training.result.model)
        dense = {
            name: value.detach().numpy()
            for name, value in model.named_parameters()
            if name.removesuffix(".weight") not in coded_names(model)
        }

        graphs = write_graphs(dense, bundle.manifest.backbone)

        assert graphs == {name: bundle.read(part) for name, part in PARTS.items()}

    @pytest.mark.slow
    @pytest.mark.executorch
    @pytest.mark.filterwarnings("ignore")  # its own imports use what is deprecated
    @pytest.mark.parametrize(("window", "n_items"), [(1, 1), (2, 3)])
    def test_tiny_windows_and_catalogues(self, window: int, n_items: int) -> None:
        """Windows and catalogues smaller than the exporter's examples export and run."""
        pytest.importorskip("executorch", reason="needs the extra 'executorch'")
        shape = SASRecConfig(n_items=n_items, embedding_dim=4, n_heads=2, window=window)
        model = device_form(SASRec(shape).eval())
        x = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
        cache = np.zeros((shape.n_blocks, window - 1, 4), np.float32)
        bias = np.full((shape.n_blocks, 2, window), -np.inf, np.float32)
        bias[..., 0] = 0

        functions = ExecuTorchFunctions(export_executorch(model), bias)

        by_prefill = functions.prefill(x)[2]
        by_step = functions.step(x, cache, cache.copy(), bias)
        np.testing.assert_allclose(by_step, by_prefill, atol=1e-5)
        embeddings = np.eye(n_items + 1, 4, dtype=np.float32)
        scores = functions.score(by_step, embeddings)
        np.testing.assert_allclose(scores, by_step @ embeddings.T, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.executorch
    @pytest.mark.filterwarnings("ignore")  # its own imports use what is deprecated
    def test_executorch_agrees_with_torch(
        self, adapted: SASRec, bundle: BundleFolder, tmp_path: Path
    ) -> None:
        """The one program computes prefill, step and score like the model inside it."""
        pytest.importorskip("executorch", reason="needs the extra 'executorch'")
        parts = {part.name: bundle.read(part.name) for part in bundle.manifest.parts}
        parts[PROGRAM] = export_executorch(adapted)
        write_bundle(tmp_path, replace(bundle.manifest, parts=()), parts)
        backend = build_backend(
            BundleFolder.open(tmp_path),
            bundle.read_default_plan(),
            EngineSettings(backend="executorch"),
        )
        items = history(WINDOW)
        x = bundle.read_items().embed(items)
        session = backend.new_state()

        for n_events in (WINDOW - 2, WINDOW - 1, WINDOW):  # a prefill, then steps
            session.observe(x[session.n_events : n_events])
            expected = torch_state(adapted, items[:n_events])
            assert_close(session.h, expected, bundle)
        everything = bundle.read_items().embed(np.arange(61))
        functions = ExecuTorchFunctions(parts[PROGRAM], relative_bias_of(bundle))
        scores = functions.score(session.h[None], everything)[0]
        assert_close(scores, everything @ expected, bundle)
