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
from pocketrec_cloud.export import (
    coded_names,
    device_form,
    export_executorch,
    export_onnx,
    with_weights,
)
from pocketrec_cloud.proving import score_tolerance
from pocketrec_device.backends import build_backend
from pocketrec_device.backends.onnx_graph import external_initializers
from pocketrec_device.session import SessionState
from pocketrec_quantization.bundle import (
    PREFILL,
    PROGRAM,
    SCORE,
    STEP,
    BundleFolder,
    write_bundle,
)
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from tests.cloud.conftest import Built, Trained

    from pocketrec_device.backends import Backend

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = 8


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
def onnxruntime(bundle: BundleFolder) -> Backend:
    """The graphs under the default plan."""
    return build_backend("onnxruntime", bundle, bundle.read_default_plan())


@pytest.fixture(scope="module")
def adapted(tiny_training: Trained, bundle: BundleFolder) -> SASRec:
    """Torch under the default plan, embeddings as the device has them."""
    weights = bundle.read_frozen().adapt(bundle.read_default_plan().widths)
    model = with_weights(device_form(tiny_training.result.model), weights)
    items = bundle.read_items()
    with torch.no_grad():
        everything = np.arange(items.n_items + 1)
        model.item_embedding.weight.copy_(torch.from_numpy(items.embed(everything)))
    return model


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
        onnxruntime: Backend,
        reference: ReferenceBackend,
        adapted: SASRec,
        bundle: BundleFolder,
        n_events: int,
    ) -> None:
        """ONNX Runtime, torch and NumPy give one state; the caches agree too."""
        items = history(n_events)
        x = bundle.read_items().embed(items)

        keys, values, h = onnxruntime.prefill(x)

        expected = reference.prefill(x)
        assert_close(keys, expected.keys, bundle)
        assert_close(values, expected.values, bundle)
        assert_close(h, expected.h, bundle)
        assert_close(h, torch_state(adapted, items), bundle)

    def test_steps_from_an_empty_state_agree_beyond_the_window(
        self,
        onnxruntime: Backend,
        reference: ReferenceBackend,
        adapted: SASRec,
        bundle: BundleFolder,
    ) -> None:
        """Event by event, also once the ring wraps, the state is that of the whole history."""
        items = history(2 * WINDOW + 3)
        x = bundle.read_items().embed(items)
        session = SessionState(bundle.manifest.backbone)

        for n_events in range(1, len(items) + 1):
            session.observe(onnxruntime, x[n_events - 1 : n_events])

            assert_close(session.h, reference.full_history(x[:n_events]).h, bundle)
            if n_events <= WINDOW:
                assert_close(session.h, torch_state(adapted, items[:n_events]), bundle)

    @pytest.mark.parametrize("n_candidates", [1, 61])
    def test_scores_agree_everywhere(
        self,
        onnxruntime: Backend,
        reference: ReferenceBackend,
        adapted: SASRec,
        bundle: BundleFolder,
        n_candidates: int,
    ) -> None:
        """One candidate, or the whole catalogue with padding."""
        candidates = bundle.read_items().embed(np.arange(n_candidates))
        h = torch_state(adapted, history(5))

        scores = onnxruntime.score(h, candidates)

        assert_close(scores, reference.score(h, candidates), bundle)
        assert_close(scores, candidates @ h, bundle)

    @pytest.mark.parametrize("name", [PREFILL, STEP])
    def test_coded_matrices_are_external(
        self, bundle: BundleFolder, tiny_training: Trained, name: str
    ) -> None:
        """A graph lists every coded matrix by name and shape, for the device to supply."""
        graph = onnx.load_from_string(bundle.read(name))
        expected = {
            f"{layer.name}.weight": [layer.n_channels, layer.n_elements]
            for layer in bundle.manifest.layers
        }

        external = {
            tensor.name: list(tensor.dims)
            for tensor in graph.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }

        assert external == expected
        assert set(external_initializers(bundle.read(name))) == expected.keys()
        names = coded_names(tiny_training.result.model)
        assert [layer.name for layer in bundle.manifest.layers] == names

    def test_scoring_needs_no_matrix(self, bundle: BundleFolder) -> None:
        """Inner products have no weights."""
        assert external_initializers(bundle.read(SCORE)) == ()

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


@pytest.mark.slow
class TestOtherExports:
    def test_an_export_can_be_repeated(self, bundle: BundleFolder, tiny_training: Trained) -> None:
        """Equal models give equal bytes, so a bundle that changed in nothing is not sent again."""
        graphs = export_onnx(device_form(tiny_training.result.model))

        parts = (("prefill", PREFILL), ("step", STEP), ("score", SCORE))
        assert graphs == {name: bundle.read(part) for name, part in parts}

    @pytest.mark.parametrize(("window", "n_items"), [(1, 1), (2, 3)])
    def test_tiny_windows_and_catalogues(self, window: int, n_items: int) -> None:
        """Windows and catalogues smaller than the exporter's examples export too."""
        shape = SASRecConfig(n_items=n_items, embedding_dim=4, n_heads=2, window=window)

        graphs = export_onnx(device_form(SASRec(shape)))

        assert graphs.keys() == {"prefill", "step", "score"}

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
            "executorch", BundleFolder.open(tmp_path), bundle.read_default_plan()
        )
        items = history(WINDOW)
        x = bundle.read_items().embed(items)
        session = SessionState(bundle.manifest.backbone)

        for n_events in (WINDOW - 2, WINDOW - 1, WINDOW):  # a prefill, then steps
            session.observe(backend, x[session.n_events : n_events])
            expected = torch_state(adapted, items[:n_events])
            assert_close(session.h, expected, bundle)
        everything = bundle.read_items().embed(np.arange(61))
        assert_close(backend.score(session.h, everything), everything @ expected, bundle)
