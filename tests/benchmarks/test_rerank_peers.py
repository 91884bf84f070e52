# SPDX-License-Identifier: Apache-2.0
"""Peers and whole runs at tiny sizes: what they answer, never how long it took.

Tests of a peer whose library is absent are skipped; the extra 'peers' brings what is not
in the other extras.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import rerank_run
from benchmarks.processes import start_worker
from benchmarks.rerank import main
from benchmarks.rerank_analysis import TOLERANCE
from benchmarks.rerank_run import Benchmark, Settings
from benchmarks.shapes import Shape
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress

from pocketrec_cloud.peers import PEERS
from pocketrec_cloud.peers.mnn import Mnn
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.peers import FloatNetwork
from pocketrec_quantization.reference import ReferenceBackend

SHAPE = Shape(d=8, window=6, blocks=2, n_items=120)
QUICK = Settings(
    configs=("32x8x2",),
    repeat=1,
    min_seconds=0,
    min_runs=2,
    n_items=150,
    methods=("pocketrec-step", "pocketrec-cold", "ort-fp32"),
)


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Run a benchmark that draws its progress nowhere."""
    progress = Progress(console=Console(file=io.StringIO()))
    found = Benchmark(settings, work, progress).run()
    (task,) = progress.tasks
    assert task.completed == task.total
    return found


def present(name: str) -> Callable[[str], object]:
    """Stand in for ``find_spec`` where one module is absent."""
    real = importlib.util.find_spec
    return lambda wanted: None if wanted == name else real(wanted)


def random_network() -> FloatNetwork:
    """Return a network of random weights."""
    rng = np.random.default_rng(7)
    backbone = BackboneConfig(
        kind="sasrec", embedding_dim=8, n_blocks=2, n_heads=2, window=6, ffn_multiplier=1
    )
    shapes = dense_shapes(backbone) | {
        f"{layer.name}.weight": (layer.n_channels, layer.n_elements)
        for layer in coded_layers(backbone)
    }
    weights = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    items = rng.normal(size=(SHAPE.n_items + 1, 8)).astype(np.float32)
    return FloatNetwork(backbone=backbone, weights=weights, item_embeddings=items, n_candidates=100)


def test_the_exported_network_is_the_reference(tmp_path: Path) -> None:
    """The same scores from random weights, item by item."""
    pytest.importorskip("torch", reason="needs the extra 'cloud'")
    peer, network = PEERS["torch-eager"], random_network()
    rng = np.random.default_rng(8)
    history, candidates = rng.integers(1, 121, 6), rng.permutation(120)[:100] + 1

    peer.convert(network, tmp_path / "eager.model")
    session = peer.load(tmp_path / "eager.model", window=6, n_candidates=100)
    session.history[:], session.candidates[:] = history, candidates
    scores = session.run()

    items = network.item_embeddings
    reference = ReferenceBackend(network.weights, network.backbone)
    expected = reference.score(reference.prefill(items[history]).h, items[candidates])
    assert np.abs(scores - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_an_absent_library_skips_its_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it; nothing is started for them."""
    monkeypatch.setattr(rerank_run, "find_spec", present("MNN"))
    monkeypatch.setattr(
        rerank_run.Benchmark, "_job", lambda self, title, job: {"error": {"type": job["task"]}}
    )
    settings = Settings(configs=("8x6x1",), methods=("mnn", "torch-eager"), n_items=120)
    benchmark = Benchmark(settings, tmp_path, Progress(console=Console(file=io.StringIO())))

    mnn, eager = benchmark.run()["records"]

    assert mnn["skipped"] == "needs MNN: pip install 'pocketrec[cloud,peers]'"
    assert eager["error"] == {"type": "build"}


def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of that record, not of the run."""
    monkeypatch.setattr(sys, "executable", "false")

    found = run(QUICK, tmp_path)

    assert {record["error"]["type"] for record in found["records"]} == {"ProcessDied"}
    assert found["ratios"] == found["bounds"] == []


def test_a_failing_conversion_is_an_error(tmp_path: Path) -> None:
    """With its type and message, across the process boundary."""
    job = {
        "task": "convert",
        "method": "torch-eager",
        "shape": {"d": 8, "window": 6, "blocks": 1, "n_items": 120},
        "model": str(tmp_path),
        "out": str(tmp_path / "eager.model"),
        "answer": str(tmp_path / "answer.json"),
    }
    pytest.importorskip("torch", reason="needs the extra 'cloud'")

    start_worker("benchmarks.rerank_worker", job)

    error = json.loads((tmp_path / "answer.json").read_text())["error"]
    assert (error["task"], error["type"]) == ("convert", "FileNotFoundError")


def test_a_converter_that_writes_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNN's prints its complaint and returns as if nothing had happened."""
    pytest.importorskip("torch", reason="needs the extra 'cloud'")
    monkeypatch.setattr(
        "pocketrec_cloud.peers.history.write_onnx", lambda network, out: out.touch()
    )
    monkeypatch.setattr(
        "pocketrec_cloud.peers.mnn.import_module",
        lambda name: type("Silent", (), {"mnnconvert": staticmethod(lambda arguments: None)}),
    )

    with pytest.raises(RuntimeError, match="wrote no file"):
        Mnn(name="mnn").convert(random_network(), tmp_path / "mnn.model")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for built models, shared: a bundle takes seconds."""
    return tmp_path_factory.mktemp("rerank")


@pytest.mark.slow
def test_a_run_measures_everything(work: Path, tmp_path: Path) -> None:
    """From the command line: records, ratios, bounds, pieces, and the page."""
    pytest.importorskip("torch", reason="needs the extra 'cloud'")
    options = ["--configs", "32x8x2", "--methods", ",".join(QUICK.methods), "--items", "150"]
    options += ["--repeat", "2", "--min-seconds", "0", "--min-runs", "2", "--work", str(work)]
    options += ["--json", str(tmp_path / "run.json"), "--report", str(tmp_path / "run.md")]

    done = CliRunner().invoke(main, options)

    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "run.json").read_text())
    step, cold, ort = found["records"]
    assert (step["d"], step["L"], step["blocks"], step["n"]) == (32, 8, 2, 4)
    for record in (step, cold, ort):
        assert "error" not in record
        assert record["bundle_or_model_bytes"] > 1000
        assert 0 < record["p50_us"] <= record["p90_us"] <= record["p99_us"]
    assert step["computed"]
    assert [one["method"] for one in found["ratios"]] == ["pocketrec-step", "pocketrec-cold"]
    assert {one["best_peer"] for one in found["ratios"]} == {"ort-fp32"}
    assert [one["method"] for one in found["bounds"]] == [r["method"] for r in found["records"]]
    assert found["breakdown"]["32x8x2"]["rerank_us"] > 0
    assert "ort-fp32" in (tmp_path / "run.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", list(PEERS))
def test_a_peer_answers_as_the_reference(method: str, work: Path) -> None:
    """Float peers give its scores, quantized ones nearly its ranking."""
    for module in PEERS[method].requires:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: {PEERS[method].install}")
    (record,) = run(replace(QUICK, methods=(method,)), work)["records"]

    assert "error" not in record
    assert record["top10_overlap"] >= (1.0 if PEERS[method].is_exact else 0.5)
    assert record["max_abs_error"] < (1e-5 if PEERS[method].is_exact else 1.0)
