# SPDX-License-Identifier: Apache-2.0
"""Other runtimes: how they are found, and that one in a file is measured as pocketrec is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import BackendError, ConfigError, MissingExtraError
from pocketrec_device.bench import BenchConfig, Grid, Side, Variant, run_bench
from pocketrec_device.bench.peers import convert_peer, load_peer
from pocketrec_device.bench.result import BenchResult
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.peers import FloatNetwork, Peer
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.bundle import BundleFolder

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "add_runtime" / "main.py"
SPEC = f"{EXAMPLE}:NumpyRuntime"
QUICK = BenchConfig(n_candidates=5, warmup=0, runs=4, min_seconds=0, repeat=1)


@pytest.fixture(scope="module")
def twin(model: TinyModel, bundle: BundleFolder) -> FloatTwin:
    """The bundle's own weights at 8 bits, as floats."""
    return FloatTwin(
        weights=model.frozen.adapt(model.plan().widths),
        item_embeddings=bundle.read_items().embed(np.arange(13)),
    )


@pytest.fixture(scope="module")
def twin_file(twin: FloatTwin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("twin") / "float"
    path.write_bytes(twin.to_bytes())
    return path


class TestFinding:
    def test_a_class_in_a_file_is_made(self) -> None:
        """A user's runtime needs no package."""
        assert load_peer(SPEC).name == "plain-numpy"

    @pytest.mark.parametrize(
        "spec",
        [
            "unheard-of",
            "no.such.module:Peer",
            f"{EXAMPLE}:Absent",
            "absent.py:Peer",
            f"{EXAMPLE}:Path",
            f"{EXAMPLE}:Session",
            ":Peer",
        ],
    )
    def test_what_is_no_peer_is_refused(self, spec: str) -> None:
        """A wrong name, module, file or class; the message repeats it."""
        with pytest.raises(ConfigError):
            load_peer(spec)

    def test_a_file_that_is_no_python_is_refused(self, tmp_path: Path) -> None:
        """A word that Python does not know ends with the same message as an absent file."""
        path = tmp_path / "odd.py"
        path.write_text("class")

        with pytest.raises(ConfigError, match=r"odd\.py"):
            load_peer(f"{path}:Peer")

    def test_an_absent_library_is_named_with_its_command(self, tmp_path: Path) -> None:
        """Before anything is measured."""
        path = tmp_path / "exotic.py"
        path.write_text(
            "class Exotic:\n    name, requires, install = 'exotic', ('exotic_rt',), 'pip it'\n"
            "    convert = load = None\n"
        )

        with pytest.raises(MissingExtraError, match="exotic_rt; run: pip it"):
            load_peer(f"{path}:Exotic")

    def test_an_absent_module_of_an_absent_package_is_named(self, tmp_path: Path) -> None:
        """Looking for a part must not import what is absent."""
        path = tmp_path / "part.py"
        path.write_text(
            "class Part:\n    name, requires, install = 'part', ('exotic_rt.kernels',), 'pip it'\n"
            "    convert = load = None\n"
        )

        with pytest.raises(MissingExtraError, match=r"exotic_rt\.kernels; run: pip it"):
            load_peer(f"{path}:Part")

    def test_a_converter_that_fails_is_a_backend_error(
        self, bundle: BundleFolder, twin_file: Path, tmp_path: Path
    ) -> None:
        """Other people's code raises what it likes; the message says whose it is."""
        path = tmp_path / "broken.py"
        path.write_text(
            "class Broken:\n    name, requires, install, load = 'broken', (), '', None\n"
            "    def convert(self, network, out):\n        raise KeyError('no such operator')\n"
        )
        broken = Variant(name="broken", float_twin=twin_file, peer=f"{path}:Broken")

        with pytest.raises(BackendError, match=r"broken\.py.*no such operator"):
            convert_peer(bundle, broken, tmp_path, QUICK)

    def test_a_peer_without_the_float_model_is_refused(self) -> None:
        """It would have nothing to convert."""
        with pytest.raises(ConfigError, match="--float-twin"):
            Variant(name="plain-numpy", peer=SPEC)


class TestExample:
    def test_it_scores_as_the_reference(
        self, bundle: BundleFolder, twin: FloatTwin, model: TinyModel, tmp_path: Path
    ) -> None:
        """Converted in one place, loaded in another, equal scores."""
        peer: Peer = load_peer(SPEC)
        network = FloatNetwork.of(bundle, twin, n_candidates=3)
        peer.convert(network, tmp_path / "model")

        session = peer.load(tmp_path / "model", window=5, n_candidates=3)
        session.history[:], session.candidates[:] = [1, 4, 2, 2, 7], [3, 5, 12]

        weights = {**model.frozen.dense, **twin.weights}
        reference = ReferenceBackend(weights, bundle.manifest.backbone)
        items = twin.item_embeddings
        expected = reference.score(reference.state_after(items[[1, 4, 2, 2, 7]]), items[[3, 5, 12]])
        np.testing.assert_allclose(session.run(), expected, rtol=1e-5)

    def test_it_is_measured_beside_the_bundle(self, bundle: BundleFolder, twin_file: Path) -> None:
        """End to end only, in the same result, with the size of the file it converted."""
        variants = (
            Variant(name="default"),
            Variant(name="plain-numpy", float_twin=twin_file, peer=SPEC),
        )
        grid = Grid(variants=variants, scenarios=("single", "session"))

        result = run_bench(
            Side(folder=bundle.path, grid=grid, sessions=_sessions(twin_file.parent)), QUICK
        )

        own, replayed, other = result["records"]
        assert (own["cell"], other["cell"]) == (
            "default/onnxruntime/balanced/1/single",
            "plain-numpy/peer/balanced/1/single",
        )
        assert replayed["latency_us"].keys() == {"start", "rerank", "observe", "observe_rerank"}
        assert other["latency_us"].keys() == {"observe_rerank"}
        assert other["wire_bytes"] > 12 * 8 * 4
        assert (other["layers"], other["quality"], other["resident_weight_bytes"]) == (
            [],
            None,
            None,
        )
        (skipped,) = result["skipped"]
        assert skipped["cell"] == "plain-numpy/peer/balanced/1/session"
        assert BenchResult.from_json(result).cells.keys() == {
            record["cell"] for record in result["records"]
        }


def _sessions(folder: Path) -> Path:
    path = folder / "sessions.txt"
    path.write_text("user-1 a b unknown c d\nuser-2 e\nuser-3 f g h\n")
    return path


class TestFloatNetwork:
    def test_a_tensor_of_another_shape_is_refused(
        self, bundle: BundleFolder, twin: FloatTwin
    ) -> None:
        """By name, before a converter fails in its own words."""
        network = FloatNetwork.of(bundle, twin, n_candidates=3)
        weights = dict(network.weights)
        weights["blocks.0.q.weight"] = weights["blocks.0.q.weight"][:-1]

        with pytest.raises(ConfigError, match=r"blocks\.0\.q\.weight"):
            FloatNetwork(
                backbone=network.backbone,
                weights=weights,
                item_embeddings=network.item_embeddings,
                n_candidates=3,
            )

    @pytest.mark.parametrize("n_candidates", [0, 13])
    def test_more_candidates_than_items_are_refused(
        self, bundle: BundleFolder, twin: FloatTwin, n_candidates: int
    ) -> None:
        """None is no question either."""
        with pytest.raises(ConfigError, match=r"1\.\.12"):
            FloatNetwork.of(bundle, twin, n_candidates=n_candidates)
