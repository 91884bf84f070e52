# SPDX-License-Identifier: Apache-2.0
"""Trains a backbone: next-event prediction, early stop on validation NDCG@10, resumable.

Two files lie in the output folder: ``last.safetensors`` holds everything needed to go
on (weights, Adam's moments, the history of metrics), ``best.safetensors`` the model to
use. Randomness is drawn anew per epoch from (seed, epoch), so a resumed run takes the
same course as an uninterrupted one; only when to stop may be changed on the way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from pocketrec.errors import ConfigError
from pocketrec_cloud.batches import training_batches
from pocketrec_cloud.checkpoint import load_backbone, save_backbone
from pocketrec_cloud.evaluation import SequenceModel, rank_all
from pocketrec_cloud.losses import sampled_softmax_loss
from pocketrec_cloud.training_run import EpochRecord, TrainingConfig, TrainingRun

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_cloud.backbones.base import Backbone, BackboneShape
    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = ["EpochRecord", "Progress", "TrainingConfig", "TrainingResult", "train", "train_epoch"]


@dataclass(slots=True)
class TrainingResult:
    """The best model and how it came about.

    Attributes:
        model: The backbone of the best evaluation, in evaluation mode.
        history: One record per epoch, resumed ones included.
        stopped: Why training ended.
    """

    model: Backbone
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


def train(
    split: LeaveOneOut,
    backbone: BackboneShape | Backbone,
    config: TrainingConfig,
    *,
    folder: Path,
    progress: Progress,
    resume: bool = False,
    device: str = "cpu",
) -> TrainingResult:
    """Train until validation stops improving.

    Args:
        split: Training sequences and validation targets.
        backbone: Shape of the model; or a model to go on from, which is changed. Of that,
            parameters that need no gradient stay as they are.
        config: How long and how hard.
        folder: Where the two checkpoints go; made when absent.
        progress: Told of every batch and epoch.
        resume: Go on from ``last.safetensors`` when it is there.
        device: Where to train, as torch names it.

    Returns:
        The best model, on the CPU, with the history of the run.

    Raises:
        ConfigError: The folder holds another run (and ``resume`` is off, or its
            configuration differs in more than when to stop).
        MalformedArtifactError: The checkpoint to resume from is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = TrainingRun.start(split.train_sequences(), backbone, config, device=device)
    last = folder / "last.safetensors"
    if last.exists():
        if not resume:
            raise ConfigError(
                f"expected an empty folder, found the run {last}: resume it, or name another folder"
            )
        run.restore(last, config)
    started = time.monotonic()
    stopped = _reason_to_stop(run, config, elapsed_s=0.0)
    while stopped is None:
        record = _one_epoch(run, split, config, progress)
        if run.improves(record):
            facts: dict[str, object] = {"epoch": record.epoch, "ndcg@10": record.validation_ndcg10}
            path = folder / "best.safetensors"
            save_backbone(path, run.model, split.dataset.item_ids, facts)
        run.history.append(record)
        run.save(last, config)
        progress.epoch(record)
        stopped = _reason_to_stop(run, config, elapsed_s=time.monotonic() - started)
    model, _, _ = load_backbone(folder / "best.safetensors")
    return TrainingResult(model=model, history=run.history, stopped=stopped)


def _reason_to_stop(run: TrainingRun, config: TrainingConfig, *, elapsed_s: float) -> str | None:
    if run.evaluations_since_best() >= config.patience:
        return f"no better validation NDCG@10 in {config.patience} evaluations"
    if not run.evaluations():  # there is no model to use yet
        return None
    if len(run.history) >= config.max_epochs:
        return f"{config.max_epochs} epochs done"
    if config.max_minutes is not None and elapsed_s >= 60 * config.max_minutes:
        return f"{config.max_minutes:g} minutes are over"
    return None


def _one_epoch(
    run: TrainingRun, split: LeaveOneOut, config: TrainingConfig, progress: Progress
) -> EpochRecord:
    epoch = len(run.history) + 1
    started = time.monotonic()
    loss = train_epoch(run, config, progress)
    seconds = time.monotonic() - started
    if epoch % config.evaluate_every and epoch < config.max_epochs:
        return EpochRecord(epoch=epoch, loss=loss, seconds=seconds)
    run.model.eval()
    scorer = SequenceModel(run.model, run.model.config.window)
    quality = rank_all(scorer, split, stage="validation", seed=config.seed)
    return EpochRecord(
        epoch=epoch,
        loss=loss,
        seconds=seconds,
        validation_hr10=quality.mean("hr", 10),
        validation_ndcg10=quality.mean("ndcg", 10),
    )


def train_epoch(run: TrainingRun, config: TrainingConfig, progress: Progress) -> float:
    """Train on every user once; the run's history says which epoch it is.

    Args:
        run: Model and optimizer, which are changed; the history is not.
        config: How hard. What is random is drawn from its seed and the number of the epoch.
        progress: Told of every batch.

    Returns:
        The mean loss of a target.
    """
    epoch = len(run.history) + 1
    rng = np.random.default_rng([config.seed, epoch])
    torch.manual_seed(int(rng.integers(2**62)))
    run.model.train()
    step_size = config.learning_rate * config.decay ** run.n_decays(config.decay_patience)
    for group in run.optimizer.param_groups:
        group["lr"] = step_size
    total, n_targets = 0.0, 0
    n_events, device = run.model.config.training_events, run.model.item_embedding.weight.device
    n_tokens = sum(max(0, min(row.shape[0] - 1, n_events)) for row in run.sequences)
    for inputs, targets in training_batches(
        run.sequences, window=n_events, tokens_per_batch=config.tokens_per_batch, rng=rng
    ):
        wanted = targets.to(device)
        real = wanted > 0
        hidden = run.model(inputs.to(device))[real]
        loss = sampled_softmax_loss(
            hidden,
            wanted[real],
            run.model.item_embedding.weight,
            n_negatives=config.n_negatives,
        )
        run.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.max_gradient_norm)
        run.optimizer.step()
        mean_loss = loss.item()
        total += mean_loss * hidden.shape[0]
        n_targets += hidden.shape[0]
        progress.batch(epoch=epoch, done=n_targets / n_tokens, loss=mean_loss)
    return total / max(n_targets, 1)
