# SPDX-License-Identifier: Apache-2.0
"""Trains a backbone: next-event prediction, early stop on validation NDCG@10, resumable.

Two files lie in the output folder: ``last.safetensors`` holds everything needed to go
on (weights, Adam's moments, the history of metrics), ``best.safetensors`` the model to
use. Randomness is drawn anew per epoch from (seed, epoch), so a resumed run takes the
same course as an uninterrupted one.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from pocketrec.errors import ConfigError
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_cloud.batches import training_batches
from pocketrec_cloud.checkpoint import load_backbone, read_tensors, save_backbone, write_tensors
from pocketrec_cloud.evaluation import SequenceModel, evaluate
from pocketrec_cloud.losses import sampled_softmax_loss

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = ["EpochRecord", "Progress", "TrainingConfig", "TrainingResult", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How long and how hard to train.

    Attributes:
        max_epochs: Passes over the users at most.
        patience: Evaluations without a better validation NDCG@10 before stopping.
        evaluate_every: Epochs between two evaluations.
        max_minutes: Wall-clock limit, checked after every epoch; None = no limit.
        tokens_per_batch: Bound on users times longest history of a batch.
        learning_rate: Adam's step size at the start.
        decay: Factor on the step size after every ``decay_patience`` evaluations
            without a better one.
        decay_patience: See ``decay``.
        weight_decay: Decoupled (AdamW).
        n_negatives: Sampled softmax negatives per batch; V or more = whole catalogue.
        max_gradient_norm: Gradients are scaled down to this norm.
        seed: Seed of everything random.
    """

    max_epochs: int = 200
    patience: int = 10
    evaluate_every: int = 2
    max_minutes: float | None = None
    tokens_per_batch: int = 12_800
    learning_rate: float = 1e-3
    decay: float = 0.5
    decay_patience: int = 3
    weight_decay: float = 0.0
    n_negatives: int = 512
    max_gradient_norm: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.max_epochs, self.patience, self.evaluate_every, self.n_negatives)
        if min(counts) < 1 or min(self.tokens_per_batch, self.decay_patience) < 1:
            raise ConfigError(f"expected every count to be at least 1, found {self}")
        if self.learning_rate <= 0 or self.max_gradient_norm <= 0 or self.weight_decay < 0:
            raise ConfigError(f"expected positive rates, found {self}")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"expected a decay within (0, 1], found {self.decay}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch: its mean loss, seconds, and what evaluation said, if it ran."""

    epoch: int
    loss: float
    seconds: float
    validation_hr10: float | None = None
    validation_ndcg10: float | None = None


@dataclass(slots=True)
class TrainingResult:
    """The best model and how it came about.

    Attributes:
        model: The backbone of the best evaluation, in evaluation mode.
        history: One record per epoch, resumed ones included.
        stopped: Why training ended.
    """

    model: SASRec
    history: list[EpochRecord]
    stopped: str

    @property
    def best(self) -> EpochRecord:
        """The epoch the model is from."""
        return max(
            (record for record in self.history if record.validation_ndcg10 is not None),
            key=lambda record: record.validation_ndcg10 or 0.0,
        )


class Progress(Protocol):
    """Whoever watches a training."""

    def batch(self, *, epoch: int, done: float, loss: float) -> None:
        """A batch is done; ``done`` is the share of the epoch."""
        ...

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done."""
        ...


@dataclass(slots=True)
class _Run:
    """The moving parts of one training."""

    model: SASRec
    optimizer: torch.optim.Optimizer
    sequences: list[NDArray[np.int32]]
    history: list[EpochRecord] = field(default_factory=list)

    def best_ndcg(self) -> float:
        return max((record.validation_ndcg10 or 0.0 for record in self.history), default=0.0)

    def n_decays(self, patience: int) -> int:
        """Count the stretches of ``patience`` evaluations without a better one."""
        best, waited, decays = 0.0, 0, 0
        for record in self.history:
            if record.validation_ndcg10 is None:
                continue
            improved = record.validation_ndcg10 > best
            best, waited = max(best, record.validation_ndcg10), 0 if improved else waited + 1
            if waited == patience:
                waited, decays = 0, decays + 1
        return decays

    def evaluations_since_best(self) -> int:
        values = [r.validation_ndcg10 for r in self.history if r.validation_ndcg10 is not None]
        return len(values) - 1 - values.index(max(values)) if values else 0


def train(
    split: LeaveOneOut,
    backbone: SASRecConfig,
    config: TrainingConfig,
    *,
    folder: Path,
    progress: Progress,
    resume: bool = False,
) -> TrainingResult:
    """Train until validation stops improving.

    Args:
        split: Training sequences and validation targets.
        backbone: Shape of the model.
        config: How long and how hard.
        folder: Where the two checkpoints go; made when absent.
        progress: Told of every batch and epoch.
        resume: Go on from ``last.safetensors`` when it is there.

    Returns:
        The best model with the history of the run.

    Raises:
        ConfigError: The folder holds another run (and ``resume`` is off, or its
            configuration differs).
        MalformedArtifactError: The checkpoint to resume from is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _start(split, backbone, config)
    last = folder / "last.safetensors"
    if last.exists():
        _restore(run, last, backbone, config, resume=resume)
    started = time.monotonic()
    stopped = _reason_to_stop(run, config, elapsed_s=0.0)
    while stopped is None:
        record = _one_epoch(run, split, config, progress)
        improved = (record.validation_ndcg10 or 0.0) > run.best_ndcg()
        run.history.append(record)
        if improved:
            facts: dict[str, object] = {"epoch": record.epoch, "ndcg@10": record.validation_ndcg10}
            path = folder / "best.safetensors"
            save_backbone(path, run.model, split.dataset.item_ids, facts)
        _save_run(run, last, backbone, config)
        progress.epoch(record)
        stopped = _reason_to_stop(run, config, elapsed_s=time.monotonic() - started)
    model, _, _ = load_backbone(folder / "best.safetensors")
    return TrainingResult(model=model, history=run.history, stopped=stopped)


def _start(split: LeaveOneOut, backbone: SASRecConfig, config: TrainingConfig) -> _Run:
    torch.manual_seed(config.seed)
    model = SASRec(backbone)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    sequences = [split.train_sequence(u) for u in range(split.dataset.n_users)]
    return _Run(model=model, optimizer=optimizer, sequences=sequences)


def _reason_to_stop(run: _Run, config: TrainingConfig, *, elapsed_s: float) -> str | None:
    if run.evaluations_since_best() >= config.patience:
        return f"no better validation NDCG@10 in {config.patience} evaluations"
    if len(run.history) >= config.max_epochs:
        return f"{config.max_epochs} epochs done"
    evaluated = any(record.validation_ndcg10 is not None for record in run.history)
    if config.max_minutes is not None and evaluated and elapsed_s >= 60 * config.max_minutes:
        return f"{config.max_minutes:g} minutes are over"
    return None


def _one_epoch(
    run: _Run, split: LeaveOneOut, config: TrainingConfig, progress: Progress
) -> EpochRecord:
    epoch = len(run.history) + 1
    started = time.monotonic()
    rng = np.random.default_rng([config.seed, epoch])
    torch.manual_seed(int(rng.integers(2**62)))
    loss = _train_epoch(run, config, progress, epoch, rng)
    seconds = time.monotonic() - started
    if epoch % config.evaluate_every and epoch != config.max_epochs:
        return EpochRecord(epoch=epoch, loss=loss, seconds=seconds)
    run.model.eval()
    scorer = SequenceModel(run.model, run.model.config.window)
    quality = evaluate(scorer, split, stage="validation", seed=config.seed).full.as_record()
    return EpochRecord(
        epoch=epoch,
        loss=loss,
        seconds=seconds,
        validation_hr10=float(quality["hr@10"]),  # type: ignore[arg-type]
        validation_ndcg10=float(quality["ndcg@10"]),  # type: ignore[arg-type]
    )


def _train_epoch(
    run: _Run, config: TrainingConfig, progress: Progress, epoch: int, rng: np.random.Generator
) -> float:
    run.model.train()
    step_size = config.learning_rate * config.decay ** run.n_decays(config.decay_patience)
    for group in run.optimizer.param_groups:
        group["lr"] = step_size
    total, n_targets, n_tokens_done = 0.0, 0, 0
    window = run.model.config.window
    n_tokens = sum(max(0, min(row.shape[0] - 1, window)) for row in run.sequences)
    for inputs, targets in training_batches(
        run.sequences, window=window, tokens_per_batch=config.tokens_per_batch, rng=rng
    ):
        real = targets > 0
        hidden = run.model(inputs)[real]
        loss = sampled_softmax_loss(
            hidden,
            targets[real],
            run.model.item_embedding.weight,
            n_negatives=config.n_negatives,
        )
        run.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.max_gradient_norm)
        run.optimizer.step()
        total += loss.item() * hidden.shape[0]
        n_targets += hidden.shape[0]
        n_tokens_done += hidden.shape[0]
        progress.batch(epoch=epoch, done=n_tokens_done / n_tokens, loss=loss.item())
    return total / max(n_targets, 1)


def _save_run(run: _Run, path: Path, backbone: SASRecConfig, config: TrainingConfig) -> None:
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items()}
    for number, moments in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in moments.items()}
    metadata: dict[str, object] = {
        "backbone": asdict(backbone),
        "training": asdict(config),
        "history": [asdict(record) for record in run.history],
    }
    write_tensors(path, tensors, metadata)


def _restore(
    run: _Run, path: Path, backbone: SASRecConfig, config: TrainingConfig, *, resume: bool
) -> None:
    if not resume:
        raise ConfigError(
            f"expected an empty folder, found the run {path}: resume it, or name another folder"
        )
    tensors, header = read_tensors(path)
    if header.get("backbone") != asdict(backbone):
        raise ConfigError(
            f"expected to resume a run of shape {asdict(backbone)}, "
            f"found {header.get('backbone')} in {path}"
        )
    run.model.load_state_dict(_under(tensors, "model."))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer.").items():
        number, _, moment = name.partition(".")
        state.setdefault(int(number), {})[moment] = tensor
    groups = run.optimizer.state_dict()["param_groups"]
    run.optimizer.load_state_dict({"state": state, "param_groups": groups})
    records = header.get("history")
    if isinstance(records, list):
        run.history = [EpochRecord(**record) for record in records]


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
