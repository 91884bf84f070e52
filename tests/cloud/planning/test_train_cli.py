# SPDX-License-Identifier: Apache-2.0
"""``planner train`` and ``bundle build --planner``, and what devices make of the result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.commands import run_command, run_command_json

from pocketrec.cli import ExitCode
from pocketrec_cloud.bundling import BUNDLE_FOLDER, PLANNER, SENSITIVITY
from pocketrec_cloud.delivery.publishing.bundles import publish_bundle
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.publishing.storage import open_storage
from pocketrec_cloud.delivery.serving.server import ServerConfig
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_cloud.planning.planner_checkpoint import load_planner
from pocketrec_device import Runtime
from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import CARD, EXTRACT, EXTRACT_VECTORS, BundleFolder
from pocketrec_quantization.personal import PersonalPlanner

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tests.cloud.conftest import Trained

    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.planning.planner_checkpoint import TrainedPlanner

pytestmark = pytest.mark.usefixtures("one_thread")

COMMANDS = {
    "planner.train": "pocketrec_cloud.planning.train_cli:planner_train",
    "bundle.build": "pocketrec_cloud.cli:bundle_build",
}
run = partial(run_command, COMMANDS)
run_json = partial(run_command_json, COMMANDS)


@dataclass(frozen=True)
class Commanded:
    """What the two commands said and left."""

    training: dict[str, Any]
    build: dict[str, Any]
    planner: Path
    folder: Path

    @property
    def bundle(self) -> BundleFolder:
        """What devices get."""
        return BundleFolder.open(self.folder / BUNDLE_FOLDER)


@pytest.fixture(scope="module")
def commanded(
    tiny_file: Path, tiny_training: Trained, tmp_path_factory: pytest.TempPathFactory
) -> Commanded:
    """Two epochs, and a bundle."""
    folder = tmp_path_factory.mktemp("commanded")
    path = folder / "trained.safetensors"
    data = ("--data", tiny_file)
    training = run_json(
        *("planner", "train", *data, "--checkpoint", tiny_training.checkpoint, "--out", path),
        *("--max-epochs", 2, "--threads", 1, "--seed", 4),
    )
    build = run_json("bundle", "build", *data, "--planner", path, "--out", folder, "--name", "tiny")
    return Commanded(training=training, build=build, planner=path, folder=folder)


class TestTrain:
    def test_the_record_tells_what_was_done(self, commanded: Commanded) -> None:
        """Course, and test quality under one's own plan beside its controls."""
        record = commanded.training

        assert record["planner"] == str(commanded.planner)
        assert (record["init"], record["scores"]) == ("pretrained_frozen", "standardised")
        assert (record["average_bits"], record["epochs"]) == (3.0, 2)
        assert record["test"].keys() == {"own plan", "stranger's plan", "float32"}
        for values in (*record["test"].values(), {"x": record["validation_ndcg@10"]}):
            assert all(0 < value < 1 for value in values.values())

    def test_the_file_holds_the_planner(self, commanded: Commanded) -> None:
        """Under the digest that the record names, with the facts of the record."""
        loaded = load_planner(commanded.planner)

        assert loaded.planner.model_digest.hex() == commanded.training["model_digest"]
        assert loaded.facts["test"] == commanded.training["test"]
        assert loaded.extract_window == 200

    def test_people_see_a_table(
        self, tiny_file: Path, tiny_training: Trained, tmp_path: Path
    ) -> None:
        """As the paper has it: a random backbone, and scores as they come."""
        result = run(
            *("planner", "train", "--data", tiny_file, "--checkpoint", tiny_training.checkpoint),
            *("--out", tmp_path / "paper.safetensors", "--max-epochs", 1, "--threads", 1),
            *("--init", "random_frozen", "--scores", "paper", "--average-bits", 2),
        )

        assert result.exit_code == ExitCode.OK, result.output
        for text in ("own plan", "stranger's plan", "float32", "bundle build --planner"):
            assert text in result.stdout
        before = tiny_training.result.model.state_dict()["blocks.0.q.weight"]
        saved = load_planner(tmp_path / "paper.safetensors")
        assert (saved.model.state_dict()["blocks.0.q.weight"] != before).all()
        assert saved.facts["init"] == "random_frozen"

    def test_another_catalogue_is_an_artifact_error(
        self, tiny_training: Trained, tmp_path: Path
    ) -> None:
        """A checkpoint only fits the data it was trained on."""
        other = tmp_path / "other.txt"
        other.write_text("u a b c d\n")

        result = run(
            *("planner", "train", "--data", other, "--checkpoint", tiny_training.checkpoint),
            *("--out", tmp_path / "x.safetensors"),
        )

        assert result.exit_code == ExitCode.ARTIFACT
        assert "name the file it was trained on" in result.stderr
        assert not (tmp_path / "x.safetensors").exists()

    @pytest.mark.parametrize("device", ["abacus", "cuda:99"])
    def test_a_device_that_is_not_there_is_a_usage_error(
        self, tiny_file: Path, tiny_training: Trained, tmp_path: Path, device: str
    ) -> None:
        """Before anything is read."""
        result = run(
            *("planner", "train", "--data", tiny_file, "--checkpoint", tiny_training.checkpoint),
            *("--out", tmp_path / "x.safetensors", "--device", device),
        )

        assert result.exit_code == ExitCode.USAGE
        assert "--device: expected a device of this machine as torch names it" in result.stderr
        assert device in result.stderr


class TestBundleBuild:
    def test_the_bundle_carries_the_extractor(self, commanded: Commanded) -> None:
        """With its window, its graph and its vectors, and the card tells of the training."""
        bundle = commanded.bundle
        bundle.verify()

        assert bundle.manifest.extractor is not None
        assert bundle.manifest.extractor.window == 200
        assert {EXTRACT, EXTRACT_VECTORS} <= commanded.build["parts"].keys()
        assert commanded.build["digest"] == bundle.digest.hex()
        card = json.loads(bundle.read(CARD))
        assert card["planner"]["test"] == commanded.training["test"]

    def test_the_planner_lies_beside_it(self, commanded: Commanded) -> None:
        """Bound to the digest of this very bundle."""
        planner = PersonalPlanner.from_bytes((commanded.folder / PLANNER).read_bytes())

        assert planner.model_digest == commanded.bundle.model_digest
        assert planner.layers == commanded.bundle.manifest.layers
        assert planner.to_bytes() == load_planner(commanded.planner).planner.to_bytes()

    def test_the_window_is_the_one_trained_with(
        self, planner_file: tuple[TrainedPlanner, Path], tiny_file: Path, tmp_path: Path
    ) -> None:
        """A device looks back as far as the extractor was trained to, no further."""
        words = ("--data", tiny_file, "--planner", planner_file[1], "--out", tmp_path)
        run_json("bundle", "build", *words)

        extractor = BundleFolder.open(tmp_path / BUNDLE_FOLDER).manifest.extractor
        assert extractor is not None
        assert extractor.window == 12

    @pytest.mark.parametrize("which", ["none", "both"])
    def test_one_source_is_wanted(
        self, commanded: Commanded, tiny_file: Path, tiny_training: Trained, which: str
    ) -> None:
        """A checkpoint or a planner, which has its own backbone."""
        both = ("--checkpoint", tiny_training.checkpoint, "--planner", commanded.planner)

        result = run(
            *("bundle", "build", "--data", tiny_file, "--out", commanded.folder / "none"),
            *(both if which == "both" else ()),
        )

        assert result.exit_code == ExitCode.USAGE
        assert "expected --checkpoint or --planner: name one of them" in result.stderr
        assert not (commanded.folder / "none").exists()

    def test_the_source_is_not_overwritten(
        self, commanded: Commanded, tiny_file: Path, tmp_path: Path
    ) -> None:
        """The server's file has a name that a trained planner could have."""
        source = tmp_path / PLANNER
        source.write_bytes(commanded.planner.read_bytes())

        result = run(
            *("bundle", "build", "--data", tiny_file, "--planner", source, "--out", tmp_path)
        )

        assert result.exit_code == ExitCode.USAGE
        assert "name another folder" in result.stderr
        assert source.read_bytes() == commanded.planner.read_bytes()

    def test_a_backbone_is_no_planner(
        self, tiny_file: Path, tiny_training: Trained, tmp_path: Path
    ) -> None:
        """The message says which command makes one."""
        words = ("--data", tiny_file, "--planner", tiny_training.checkpoint, "--out", tmp_path)

        result = run("bundle", "build", *words)

        assert result.exit_code == ExitCode.ARTIFACT
        assert "pocketrec planner train" in result.stderr

    def test_another_catalogue_is_an_artifact_error(
        self, commanded: Commanded, tmp_path: Path
    ) -> None:
        """The planner's file is named."""
        other = tmp_path / "other.txt"
        other.write_text("u a b c d\n")

        words = ("--data", other, "--planner", commanded.planner, "--out", tmp_path / "out")
        result = run("bundle", "build", *words)

        assert result.exit_code == ExitCode.ARTIFACT
        assert "trained.safetensors" in result.stderr


class TestDelivery:
    def plans(
        self, commanded: Commanded, tmp_path: Path, histories: dict[str, tuple[str, ...]]
    ) -> dict[str, tuple[Runtime, NDArray[np.uint8]]]:
        """Publish, serve, and return a synchronised device and its codes for each history."""
        config = ServerConfig(store=tmp_path / "store", keys=tmp_path / "keys")
        KeyFolder(config.keys).create()
        planner = (commanded.folder / PLANNER).read_bytes()
        sensitivity = (commanded.folder / SENSITIVITY).read_bytes()
        with open_storage(config.store, is_new=True) as storage:
            root = create_repository(storage, config.keys)
            publish_bundle(storage, config.keys, commanded.bundle, sensitivity, planner=planner)
        found = {}
        with serve_in_thread(config) as target:
            for name, history in histories.items():
                store = Store(tmp_path / name)
                store.create("tiny", root)
                device = Runtime(store, EngineSettings(backend="onnxruntime", compute="fp32"))
                device.bootstrap(commanded.bundle.path)
                device.observe_many(history)
                report = device.sync(target, subject=name)
                assert (report.is_plan_new, report.plan_version) == (True, 1)
                engine = device._live.engine
                assert engine is not None
                found[name] = (device, engine.plan.codes)
        return found

    def test_trained_plans_reach_devices(
        self, commanded: Commanded, tiny_split: LeaveOneOut, tmp_path: Path
    ) -> None:
        """Two histories, two plans, and both rank; what was delivered is what the planner says."""
        ids = tiny_split.dataset.item_ids
        rows = [tiny_split.history(int(user), "test") for user in tiny_split.users[:2]]
        histories = {
            name: tuple(ids[i - 1] for i in row) for name, row in zip("ab", rows, strict=True)
        }

        devices = self.plans(commanded, tmp_path, histories)

        (one, codes), (two, other) = devices.values()
        assert (codes != other).mean() > 0.02
        for device in (one, two):
            status = device.status().current
            assert status is not None
            assert status.planner == "personal"
            ranking = device.rerank(ids, 10)
            assert len(set(ranking.items)) == 10
            assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
        planner = load_planner(commanded.planner).planner
        z = one.user_embedding()
        assert z is not None
        engine = one._live.engine
        assert engine is not None
        assert (planner.plan([z], engine.plan.budget_bytes)[0] == codes).mean() > 0.95
