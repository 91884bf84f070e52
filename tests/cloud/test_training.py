# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from tests.cloud.conftest import Watcher

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_cloud.backbones.caser import CaserConfig
from pocketrec_cloud.backbones.sasrec import SASRecConfig
from pocketrec_cloud.checkpoint import read_tensors, write_tensors
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.split import LeaveOneOut, leave_one_out
from pocketrec_cloud.evaluation import SequenceModel, evaluate, popularity_scorer
from pocketrec_cloud.presets import PRESETS, preset
from pocketrec_cloud.training import EpochRecord, TrainingConfig, TrainingResult, train
from pocketrec_cloud.training_display import training_display
from pocketrec_cloud.training_run import TrainingRun

if TYPE_CHECKING:
    from tests.cloud.conftest import Trained

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = SASRecConfig(n_items=20, embedding_dim=8, n_heads=2, window=4, dropout=0.3)
CONFIG = TrainingConfig(
    max_epochs=4, evaluate_every=1, tokens_per_batch=24, n_negatives=8, decay_patience=1, seed=3
)
STILL = replace(CONFIG, learning_rate=1e-12, max_epochs=20)


@pytest.fixture
def split() -> LeaveOneOut:
    """Fifteen users who walk through a ring of 20 items."""
    histories = [[(start + step) % 20 + 1 for step in range(7)] for start in range(15)]
    return leave_one_out(SequenceDataset.from_sequences(histories, n_items=20))


@pytest.fixture
def start(split: LeaveOneOut, tmp_path: Path, watcher: Watcher) -> Any:
    """Trains in a folder; fields of the configuration may be changed."""

    def run(
        folder: str = "run",
        *,
        resume: bool = False,
        shape: SASRecConfig = SHAPE,
        config: TrainingConfig = CONFIG,
        **changes: Any,
    ) -> TrainingResult:
        changed = replace(config, **changes)
        return train(
            split, shape, changed, folder=tmp_path / folder, progress=watcher, resume=resume
        )

    return run


def tensors(path: Path) -> dict[str, bytes]:
    """Return the bytes of every tensor in a file."""
    return {name: tensor.numpy().tobytes() for name, tensor in read_tensors(path)[0].items()}


def record(epoch: int, ndcg: float | None) -> EpochRecord:
    """Return an epoch with this validation metric."""
    return EpochRecord(
        epoch=epoch, loss=1.0, seconds=1.0, validation_hr10=ndcg, validation_ndcg10=ndcg
    )


def run_with(*metrics: float | None) -> TrainingRun:
    """Return a run with this course."""
    run = TrainingRun.start([], SHAPE, CONFIG)
    run.history = [record(epoch, ndcg) for epoch, ndcg in enumerate(metrics, start=1)]
    return run


class TestCourse:
    def test_a_seed_gives_one_model(self, start: Any, tmp_path: Path) -> None:
        """The same seed gives the same weights bit for bit, another seed others."""
        start("one")
        start("two")
        start("other", seed=4)

        one, two, other = (
            tensors(tmp_path / name / "last.safetensors") for name in ("one", "two", "other")
        )
        assert one == two
        assert one.keys() == other.keys()
        assert one != other

    @pytest.mark.parametrize("n_epochs", [1, 3])
    def test_a_resumed_run_equals_an_uninterrupted_one(
        self, start: Any, tmp_path: Path, n_epochs: int
    ) -> None:
        """Weights, moments, best model and metrics are the same bit for bit."""
        whole = start("whole")

        start("parts", max_epochs=n_epochs)
        parts = start("parts", resume=True)

        for name in ("last.safetensors", "best.safetensors"):
            assert tensors(tmp_path / "whole" / name) == tensors(tmp_path / "parts" / name)
        assert [replace(r, seconds=0) for r in parts.history] == [
            replace(r, seconds=0) for r in whole.history
        ]

    def test_resuming_nothing_is_a_start(self, start: Any) -> None:
        """A run may always be started with resume, the first time too."""
        assert len(start(resume=True, max_epochs=1).history) == 1

    def test_a_finished_run_stays_finished(self, start: Any) -> None:
        """Resuming what is done trains no further and returns the same model."""
        first = start()

        again = start(resume=True)

        assert again.history == first.history
        for name, value in first.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value)

    def test_the_model_is_that_of_the_best_epoch(self, start: Any, split: LeaveOneOut) -> None:
        """Evaluating the returned model gives the metric of the epoch named best."""
        result = start(max_epochs=6, learning_rate=5e-2)

        again = evaluate(SequenceModel(result.model, 4), split, stage="validation", seed=3)

        assert not result.model.training
        assert again.full.mean("ndcg", 10) == result.best.validation_ndcg10
        assert result.best.validation_ndcg10 == max(r.validation_ndcg10 for r in result.history)

    def test_watchers_hear_of_batches_and_epochs(self, start: Any, watcher: Watcher) -> None:
        """Shares rise to 1 within each epoch, and every epoch is reported."""
        result = start(max_epochs=2)

        assert watcher.records == result.history
        assert watcher.shares == sorted(watcher.shares)
        assert watcher.shares[-1] == pytest.approx(2)


class TestDevice:
    def test_where_it_trains_is_named(self, split: LeaveOneOut, tmp_path: Path, start: Any) -> None:
        """As torch names it; the first CPU is the CPU, bit for bit."""
        start("default", max_epochs=2)
        config = replace(CONFIG, max_epochs=2)

        train(split, SHAPE, config, folder=tmp_path / "named", progress=Watcher(), device="cpu:0")

        one, two = (tensors(tmp_path / name / "last.safetensors") for name in ("default", "named"))
        assert one == two

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_run_may_change_its_device(
        self, split: LeaveOneOut, tmp_path: Path, start: Any
    ) -> None:
        """What was trained on a GPU comes back on the CPU, and goes on there."""
        folder, config = tmp_path / "run", replace(CONFIG, max_epochs=2)

        result = train(split, SHAPE, config, folder=folder, progress=Watcher(), device="cuda")

        assert result.model.item_embedding.weight.device.type == "cpu"
        assert len(start(resume=True, max_epochs=3).history) == 3


class TestStopping:
    def test_training_stops_when_validation_stalls(self, start: Any) -> None:
        """With weights that stand still the first evaluation stays best."""
        result = start(config=STILL, patience=2)

        assert len(result.history) == 3
        assert result.best.epoch == 1
        assert "2 evaluations" in result.stopped

    def test_epochs_between_evaluations_do_not_count(self, start: Any) -> None:
        """Patience is in evaluations."""
        result = start(config=STILL, patience=1, evaluate_every=2)

        assert [r.validation_ndcg10 is not None for r in result.history] == [False, True] * 2

    def test_the_last_epoch_is_evaluated(self, start: Any) -> None:
        """However seldom evaluation runs, there is a model in the end."""
        result = start(max_epochs=3, evaluate_every=100)

        assert result.best.epoch == 3
        assert result.stopped == "3 epochs done"

    def test_time_runs_out_only_after_an_evaluation(self, start: Any) -> None:
        """Even without any time there is a model to use."""
        result = start(max_minutes=1e-12, evaluate_every=2)

        assert len(result.history) == 2
        assert "minutes are over" in result.stopped

    def test_when_to_stop_may_be_changed_on_resuming(self, start: Any) -> None:
        """A stalled run goes on with more patience."""
        start(config=STILL, patience=1)

        result = start(config=STILL, patience=4, resume=True)

        assert len(result.history) == 5


class TestTrainingRun:
    def test_the_first_evaluation_improves_even_at_zero(self) -> None:
        """A model that never hits is still the best so far."""
        assert run_with(None).improves(record(2, 0.0))
        assert not run_with(0.0).improves(record(2, 0.0))
        assert not run_with(0.5).improves(record(2, None))

    def test_evaluations_are_counted_from_the_best(self) -> None:
        """Of equal metrics the earlier is best."""
        assert run_with(0.1, None, 0.3, 0.2, None, 0.3).evaluations_since_best() == 2
        assert run_with(None, None).evaluations_since_best() == 0

    def test_the_step_size_falls_whenever_validation_stalls(self) -> None:
        """Every second evaluation in a row without a better one lowers it once more."""
        assert run_with(0.1, 0.1, None, 0.1).n_decays(2) == 1
        assert run_with(0.1, 0.1, 0.2, 0.1, 0.1, 0.1).n_decays(2) == 1
        assert run_with(0.3, 0.1, 0.1, 0.1, 0.1).n_decays(2) == 2
        assert run_with().n_decays(2) == 0

    def test_a_decayed_step_size_is_used(self, start: Any, tmp_path: Path) -> None:
        """With stalls a decaying run ends elsewhere than one that keeps its step size."""
        start("decaying", patience=20, max_epochs=6, learning_rate=1e-5)
        start("steady", patience=20, max_epochs=6, learning_rate=1e-5, decay=1.0)

        assert tensors(tmp_path / "decaying" / "last.safetensors") != tensors(
            tmp_path / "steady" / "last.safetensors"
        )


class TestFolder:
    def test_a_used_folder_is_refused(self, start: Any) -> None:
        """A run is never overwritten by accident."""
        start(max_epochs=1)

        with pytest.raises(ConfigError, match="resume it, or name another folder"):
            start(max_epochs=1)

    @pytest.mark.parametrize(
        "changes",
        [{"seed": 9}, {"learning_rate": 0.5}, {"shape": replace(SHAPE, window=5)}],
        ids=["seed", "step size", "shape"],
    )
    def test_another_run_is_not_resumed(self, start: Any, changes: dict[str, Any]) -> None:
        """What the weights depend on cannot change on the way."""
        start(max_epochs=1)

        with pytest.raises(ConfigError, match="expected to resume"):
            start(resume=True, **changes)

    def test_a_run_of_another_kind_is_not_resumed(self, start: Any) -> None:
        """Nor is a run of the same numbers but of another backbone."""
        start(max_epochs=1)
        shape = CaserConfig(n_items=SHAPE.n_items, window=4, max_height=2)

        with pytest.raises(ConfigError, match="expected to resume a run of caser, found sasrec"):
            start(resume=True, shape=shape)

    def test_a_run_from_before_there_were_kinds_goes_on(self, start: Any, tmp_path: Path) -> None:
        """What was saved without a kind is a SASRec."""
        start("old", max_epochs=1)
        path = tmp_path / "old" / "last.safetensors"
        tensors_of_run, header = read_tensors(path)
        del header["backbone_kind"]
        write_tensors(path, tensors_of_run, header)

        assert len(start("old", resume=True, max_epochs=2).history) == 2

    @pytest.mark.parametrize("damage", ["model", "history", "optimizer"])
    def test_a_damaged_run_is_refused(self, start: Any, tmp_path: Path, damage: str) -> None:
        """A file that lost tensors or facts is named, not continued."""
        start(max_epochs=1)
        path = tmp_path / "run" / "last.safetensors"
        held, header = read_tensors(path)
        if damage == "model":
            del held["model.blocks.0.q.weight"]
        elif damage == "history":
            header["history"] = [{"epoch": 1}]
        else:
            held["optimizer.first.step"] = torch.zeros(1)
        write_tensors(path, held, header)

        with pytest.raises(MalformedArtifactError, match=r"last\.safetensors"):
            start(resume=True)


class TestConfig:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_epochs": 0},
            {"patience": 0},
            {"evaluate_every": 0},
            {"tokens_per_batch": 0},
            {"n_negatives": 0},
            {"decay_patience": 0},
            {"learning_rate": 0.0},
            {"weight_decay": -1.0},
            {"max_gradient_norm": 0.0},
            {"decay": 0.0},
            {"decay": 1.5},
        ],
        ids=str,
    )
    def test_impossible_fields_are_refused(self, wrong: dict[str, Any]) -> None:
        """A training that cannot run is refused when it is configured."""
        with pytest.raises(ConfigError, match="expected"):
            TrainingConfig(**wrong)

    @pytest.mark.parametrize("name", sorted(PRESETS))
    def test_presets_fit_any_catalogue(self, name: str) -> None:
        """Every preset makes a backbone, and says what it is for."""
        assert preset(name).backbone(100).n_items == 100
        assert preset(name).summary

    def test_unknown_presets_are_answered_with_the_known_ones(self) -> None:
        """A misspelt name helps to the right one."""
        with pytest.raises(ConfigError, match=r"'demo'.*'dmo'"):
            preset("dmo")


class TestLearning:
    def test_planted_structure_is_learned(self, tiny_training: Trained) -> None:
        """On series of items the model is far better than popularity, intervals apart."""
        model = SequenceModel(tiny_training.result.model, 8)

        learned = evaluate(model, tiny_training.split, stage="test").full.interval("ndcg", 10)
        popular = evaluate(
            popularity_scorer(tiny_training.split), tiny_training.split, stage="test"
        )

        assert learned.mean > 3 * popular.full.mean("ndcg", 10)
        assert learned.low > popular.full.interval("ndcg", 10).high

    def test_the_loss_falls(self, tiny_training: Trained) -> None:
        """Every epoch is recorded, and the last is far below the first."""
        losses = [entry.loss for entry in tiny_training.result.history]

        assert len(losses) == 10
        assert losses[-1] < 0.7 * losses[0]


class TestDisplay:
    def test_evaluations_are_printed_and_the_best_marked(self) -> None:
        """A person sees a line per evaluation and which one counts."""
        text = io.StringIO()
        console = Console(file=text, width=120)

        with training_display(console, 4) as display:
            display.batch(epoch=1, done=0.5, loss=2.0)
            for entry in (record(1, None), record(2, 0.25), record(3, 0.125)):
                display.epoch(entry)

        lines = [line for line in text.getvalue().splitlines() if "NDCG" in line]
        assert len(lines) == 2
        assert "0.2500  best" in lines[0]
        assert "best" not in lines[1]
