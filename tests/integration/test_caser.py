# SPDX-License-Identifier: Apache-2.0
"""A Caser through every command: trained, bundled, planned, installed, ranked, measured."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.commands import run_command_json

from pocketrec_quantization.bundle import GRAPH_PARTS, BundleFolder

pytest.importorskip("torch", reason="needs the extra 'cloud'")

COMMANDS = {
    "train": "pocketrec_cloud.cli:train",
    "bundle.build": "pocketrec_cloud.cli:bundle_build",
    "bundle.inspect": "pocketrec_quantization.cli:bundle_inspect",
    "bundle.verify": "pocketrec_quantization.cli:bundle_verify",
    "plan.make": "pocketrec_cloud.cli:plan_make",
    "device.bootstrap": "pocketrec_device.cli:bootstrap",
    "device.rerank": "pocketrec_device.cli:rerank",
    "bench.run": "pocketrec_device.bench_cli:run",
}
LAYERS = [*(f"horizontal.{height}" for height in range(1, 6)), "vertical", "fc"]
run_json = partial(run_command_json, COMMANDS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated catalogue and its users, as a file."""
    from pocketrec_cloud.data.synthetic import SyntheticConfig, synthetic_interactions

    config = SyntheticConfig(n_users=200, n_items=60, n_groups=6, mean_events=16, n_interests=2)
    dataset = synthetic_interactions(config).dataset
    lines = (
        " ".join([dataset.user_ids[u], *(dataset.item_ids[i - 1] for i in dataset.sequence(u))])
        for u in range(dataset.n_users)
    )
    path = tmp_path_factory.mktemp("caser-data") / "interactions.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def training(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The record of a short training, and its checkpoint."""
    out = tmp_path_factory.mktemp("caser") / "training"
    words = ("--preset", "caser-demo", "--max-epochs", 2, "--threads", 1)
    record = run_json("train", "--data", data, "--out", out, *words)
    return record, out / "best.safetensors"


@pytest.fixture(scope="module")
def build(
    data: Path, training: tuple[dict[str, Any], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder with its bundle, and the files beside it."""
    out = tmp_path_factory.mktemp("caser-build")
    run_json("bundle", "build", "--data", data, "--checkpoint", training[1], "--out", out)
    return out


def test_training_names_the_kind(training: tuple[dict[str, Any], Path]) -> None:
    """The record tells which backbone was trained and how it ranks."""
    record, _ = training

    assert record["kind"] == "caser"
    assert record["backbone"]["window"] == 10
    assert record["test"].keys() == {"caser", "popularity"}


def test_the_bundle_is_sound(build: Path) -> None:
    """Every part is right, and the test vectors come out on the reference executor."""
    result = run_json("bundle", "verify", build / "bundle")

    assert result["is_sound"]
    assert result["vectors"]["n_cases"] == 8


def test_the_bundle_can_be_looked_at(build: Path) -> None:
    """The manifest has the architecture, the coded matrices in plan order, and no prefill."""
    result = run_json("bundle", "inspect", build / "bundle")

    assert result["backbone"]["kind"] == "caser"
    assert (result["backbone"]["max_height"], result["backbone"]["window"]) == (5, 10)
    assert [layer["name"] for layer in result["layers"]] == LAYERS
    parts = {part["name"] for part in result["parts"]}
    assert parts & set(GRAPH_PARTS.values()) == {"step.onnx", "score.onnx"}


@pytest.mark.parametrize("planner", ["global", "uniform-4", "random"])
def test_plans_are_made_for_it(build: Path, tmp_path: Path, planner: str) -> None:
    """Planners know nothing of what a channel is."""
    words = ("--planner", planner, "--out", tmp_path / "made.plan")

    result = run_json("plan", "make", "--bundle", build / "bundle", *words)

    assert result["coded_bytes"] <= result["budget_bytes"]


@pytest.mark.parametrize("backend", ["numpy", "onnxruntime"])
def test_a_device_ranks_with_it(build: Path, tmp_path: Path, backend: str) -> None:
    """Installed after its health check, it ranks what it knows."""
    store = tmp_path / "store"
    items = BundleFolder.open(build / "bundle").read_items().item_ids
    words = ("--store", store, "--model", "demo", "--backend", backend)
    run_json("device", "bootstrap", build / "bundle", *words)

    answer = run_json(
        *("device", "rerank", "--store", store, "--backend", backend, "-k", 3),
        *("--history", ",".join(items[:12]), "--candidates", ",".join(items[20:30])),
    )

    assert len(answer["items"]) == 3
    assert answer["n_events_known"] == 12
    assert answer["scores"] == sorted(answer["scores"], reverse=True)


def test_it_is_measured_beside_its_float_twin(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quality, bytes and time, on the bundle's own graphs."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # measured in processes
    result = run_json(
        *("bench", "run", "--bundle", build / "bundle", "--repeat", 1, "--min-seconds", 0.05),
        *("--float-twin", build / "float.safetensors", "--cases", build / "cases.safetensors"),
    )

    records = {record["variant"]: record for record in result["records"]}
    assert records.keys() == {"float32", "global"}
    assert records["float32"]["quality"]["ndcg@10_change"] == 0
    assert 0 <= records["global"]["quality"]["ndcg@10"] <= 1


@pytest.mark.slow
@pytest.mark.executorch
@pytest.mark.filterwarnings("ignore")  # its own imports use what is deprecated
def test_its_program_ranks_alike(
    data: Path, training: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """The ExecuTorch program passes the health check, and ranks as the reference does."""
    pytest.importorskip("executorch", reason="needs the extra 'executorch'")
    source = ("--data", data, "--checkpoint", training[1])
    run_json("bundle", "build", *source, "--out", tmp_path, "--executorch")
    items = BundleFolder.open(tmp_path / "bundle").read_items().item_ids
    answers = {}

    for backend in ("numpy", "executorch"):
        store = ("--store", tmp_path / backend)
        words = (*store, "--model", "demo", "--backend", backend)
        run_json("device", "bootstrap", tmp_path / "bundle", *words)
        asked = ("--history", ",".join(items[:12]), "--candidates", ",".join(items[20:30]))
        answers[backend] = run_json("device", "rerank", *store, "--backend", backend, *asked)

    assert answers["executorch"]["items"] == answers["numpy"]["items"]
