# SPDX-License-Identifier: Apache-2.0
"""Torch, reference and graph extract the same; bundles carry it, or refuse what does not fit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from pocketrec.errors import (
    ArtifactError,
    IncompatibleArtifactError,
    MalformedArtifactError,
    QuantizationError,
)
from pocketrec_cloud.onnx_graphs import write_extract_graph
from pocketrec_quantization.backbone import BackboneConfig, coded_layers
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.bundle import (
    EXTRACT,
    EXTRACT_VECTORS,
    BundleFolder,
    ExtractorInfo,
    write_bundle,
)
from pocketrec_quantization.cli import bundle_inspect, bundle_verify
from pocketrec_quantization.extract_graph import read_extract_graph
from pocketrec_quantization.testing import (
    tiny_extract_vectors,
    tiny_extractor,
    tiny_items,
    tiny_manifest,
    tiny_parts,
    tiny_personal_planner,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INFO = ExtractorInfo(kind="gru", window=9)


@cache
def graph() -> bytes:
    """Return the graph of the tiny extractor."""
    return write_extract_graph(tiny_extractor())


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    """Return that graph after a change."""
    model = onnx.load_from_string(graph())
    change(model)
    return bytes(model.SerializeToString())


def gru_of(model: onnx.ModelProto) -> onnx.NodeProto:
    """Return the GRU of a graph."""
    (node,) = [node for node in model.graph.node if node.op_type == "GRU"]
    return node


class TestThreeOfAKind:
    @pytest.fixture(autouse=True)
    def _needs_torch(self, one_thread: None) -> None:
        """Torch, on one thread."""

    @pytest.mark.parametrize("dim", [4, 16])
    def test_torch_reference_and_graph_agree(self, dim: int) -> None:
        """Every length in one padded batch, and each one alone, give the same embedding."""
        import torch

        from pocketrec_cloud.extractor import Extractor
        from pocketrec_cloud.extractor_proving import extract_tolerance
        from pocketrec_cloud.graph_runners import open_session

        torch.manual_seed(0)
        module, lengths = Extractor(dim), [1, 2, 7, 40]
        reference = module.reference()
        session = open_session(write_extract_graph(reference))
        x = np.random.default_rng(0).normal(size=(4, 40, dim)).astype(np.float32)

        with torch.no_grad():
            trained = module(torch.from_numpy(x), torch.tensor(lengths)).numpy()

        for events, length, expected in zip(x, lengths, trained, strict=True):
            z = reference.embed(events[:length])
            (from_graph,) = session.run(["z"], {"x": events[:length]})
            assert from_graph.shape == (1, dim)
            np.testing.assert_allclose(z, expected, atol=extract_tolerance(dim))
            np.testing.assert_allclose(from_graph[0], expected, atol=extract_tolerance(dim))

    def test_what_comes_after_a_history_does_not_matter(self) -> None:
        """Padding of any value leaves the embedding alone."""
        import torch

        from pocketrec_cloud.extractor import Extractor

        module, lengths = Extractor(4), torch.tensor([3])
        x = torch.randn(1, 6, 4)
        other = torch.cat([x[:, :3], 99 * torch.ones(1, 3, 4)], dim=1)

        assert torch.equal(module(x, lengths), module(other, lengths))

    def test_a_graph_that_computes_something_else_is_not_published(self) -> None:
        """Every export is compared with the reference first."""
        from pocketrec_cloud.extractor_proving import make_extract_vectors

        other = write_extract_graph(tiny_extractor(seed=1))

        with pytest.raises(QuantizationError, match="do not publish"):
            make_extract_vectors(tiny_extractor(), other, tiny_items(), window=5, seed=0)

    def test_int8_rows_change_little(self) -> None:
        """Devices extract from rounded rows: within a per cent of what training saw."""
        import torch

        from pocketrec_cloud.extractor import Extractor
        from pocketrec_cloud.extractor_proving import measure_rows
        from pocketrec_quantization.item_table import ItemTable

        embeddings = np.random.default_rng(0).normal(size=(501, 64)).astype(np.float32)
        embeddings[0] = 0
        items = ItemTable.from_embeddings(embeddings, [f"i{i}" for i in range(500)], 1)

        torch.manual_seed(0)
        extractor = Extractor(64).reference()

        effect = measure_rows(extractor, embeddings, items, window=50, seed=0)

        assert 0 < effect.relative < 0.01
        assert 0 < effect.largest < 0.01

    def test_rounding_moves_few_codes_of_a_plan(self) -> None:
        """Of what int8 rows and an int8 uplink change in z, next to nothing is left in a plan."""
        import torch

        from pocketrec_cloud.extractor import Extractor
        from pocketrec_device.extraction import CodedEmbedding
        from pocketrec_quantization.item_table import ItemTable

        torch.manual_seed(0)
        rng, dim = np.random.default_rng(0), 16
        config = BackboneConfig(
            kind="sasrec", embedding_dim=dim, n_blocks=1, n_heads=2, window=5, ffn_multiplier=1
        )
        layers = coded_layers(config)
        embeddings = rng.normal(size=(101, dim)).astype(np.float32)
        items = ItemTable.from_embeddings(embeddings, [f"i{i}" for i in range(100)], 1)
        extractor = Extractor(dim).reference()
        histories = [rng.integers(1, 101, 20) for _ in range(30)]
        exact = [extractor.embed(embeddings[history]) for history in histories]
        coded = [CodedEmbedding.of(extractor.embed(items.embed(h))) for h in histories]
        arrived = [np.frombuffer(z.codes, np.int8) * np.float32(z.scale) for z in coded]

        planner = tiny_personal_planner(layers, bytes(32), dim)
        wanted = planner.plan(exact, budget_bytes(layers, 3.0))
        made = planner.plan(arrived, budget_bytes(layers, 3.0))

        assert (wanted != made).mean() < 0.02
        assert (wanted != np.roll(wanted, 1, axis=0)).mean() > 0.1


class TestGraph:
    def test_holds_the_weights_bit_for_bit(self) -> None:
        """What a reader takes out of the graph is what the writer put in."""
        read = read_extract_graph(graph(), EXTRACT).to_arrays()

        expected = tiny_extractor().to_arrays()
        assert all(np.array_equal(read[name], array) for name, array in expected.items())

    def test_takes_any_number_of_events(self) -> None:
        """Its only input is (T, D), its only output (1, D)."""
        model = onnx.load_from_string(graph()).graph
        shapes = {
            entry.name: [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
            for entry in (*model.input, *model.output)
        }

        assert shapes == {"x": ["T", 4], "z": [1, 4]}
        assert [node.op_type for node in model.node] == ["Unsqueeze", "GRU", "Squeeze"]

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff",
            changed(lambda model: model.graph.ClearField("node")),
            changed(lambda model: model.graph.node.append(gru_of(model))),
            changed(lambda model: model.graph.ClearField("initializer")),
            changed(lambda model: gru_of(model).attribute.pop()),
            changed(
                lambda model: gru_of(model).attribute.append(
                    onnx.helper.make_attribute("clip", 1.0)
                )
            ),
            changed(lambda model: setattr(gru_of(model), "domain", "other")),
            changed(lambda model: model.graph.initializer[0].dims.__setitem__(1, 3)),
            changed(lambda model: model.graph.initializer[0].dims.__setitem__(0, 2)),
            changed(lambda model: setattr(model.graph.initializer[0], "data_type", 10)),
            changed(lambda model: setattr(model.graph.initializer[2], "raw_data", b"\xff" * 96)),
        ],
    )
    def test_with_anything_else_is_refused(self, data: bytes) -> None:
        """One GRU of one direction with finite weights inside; nothing that changes its meaning."""
        with pytest.raises(MalformedArtifactError, match="extract"):
            read_extract_graph(data, EXTRACT)

    def test_of_another_contract_is_refused(self) -> None:
        """The metadata entry says which rules a graph keeps."""
        data = changed(lambda model: model.ClearField("metadata_props"))

        with pytest.raises(IncompatibleArtifactError, match="found 'none'"):
            read_extract_graph(data, EXTRACT)


class TestBundle:
    def build(
        self, folder: Path, *, info: ExtractorInfo | None = INFO, **parts: Any
    ) -> BundleFolder:
        """Write the tiny bundle with an extractor, or with other parts of one."""
        vectors = tiny_extract_vectors(tiny_extractor(), tiny_items())
        own: dict[str, Any] = {"graph": graph(), "vectors": vectors} | parts
        contents = tiny_parts()
        if own["graph"]:
            contents[EXTRACT] = own["graph"]
        if own["vectors"]:
            contents[EXTRACT_VECTORS] = own["vectors"].to_bytes()
        manifest = replace(tiny_manifest(), extractor=info, schema_minor=0 if info is None else 1)
        write_bundle(folder, manifest, contents)
        return BundleFolder.open(folder)

    def test_carries_an_extractor(self, tmp_path: Path) -> None:
        """Manifest, graph and vectors come back, and agree."""
        bundle = self.build(tmp_path)

        bundle.verify()

        assert bundle.manifest.extractor == INFO
        assert bundle.read_extractor().embedding_dim == 4
        case = bundle.read_extract_vectors().cases[0]
        z = bundle.read_extractor().embed(bundle.read_items().embed(case.history))
        np.testing.assert_array_equal(z, case.z)

    def test_shows_its_extractor(self, tmp_path: Path) -> None:
        """Inspect says how far it looks back, verify runs its vectors."""
        bundle = self.build(tmp_path)

        shown = CliRunner().invoke(bundle_inspect, [str(bundle.path)])
        verified = CliRunner().invoke(bundle_verify, [str(bundle.path)])

        assert "kind gru, window 9" in shown.stdout
        assert verified.exit_code == 0
        assert "2 extract vectors come out" in verified.stdout

    def test_whose_extract_vectors_do_not_come_out_fails_verification(self, tmp_path: Path) -> None:
        """Another extractor's embeddings are noticed, whatever the scores say."""
        vectors = tiny_extract_vectors(tiny_extractor(seed=1), tiny_items())

        verified = CliRunner().invoke(
            bundle_verify, [str(self.build(tmp_path, vectors=vectors).path)]
        )

        assert verified.exit_code == 1
        assert "2 extract vectors do not come out" in verified.stdout
        assert "2 test vectors come out" in verified.stdout

    @pytest.mark.parametrize(
        "parts",
        [
            {"graph": None},
            {"vectors": None},
            {"info": None},
            {"graph": write_extract_graph(tiny_extractor(5))},
            {"vectors": tiny_extract_vectors(tiny_extractor(), tiny_items()), "graph": b"x"},
        ],
    )
    def test_with_half_of_one_is_refused(self, tmp_path: Path, parts: dict[str, Any]) -> None:
        """The three belong together, and to the backbone's dimension."""
        with pytest.raises(ArtifactError):
            self.build(tmp_path, **parts).verify()

    def test_whose_vectors_name_unknown_items_is_refused(self, tmp_path: Path) -> None:
        """An index beyond the table would be somebody else's row."""
        vectors = tiny_extract_vectors(tiny_extractor(), tiny_items())
        case = replace(vectors.cases[0], history=np.array([7], np.int32))

        with pytest.raises(MalformedArtifactError, match=r"item indices of 0\.\.6"):
            self.build(tmp_path, vectors=replace(vectors, cases=(case,))).verify()
