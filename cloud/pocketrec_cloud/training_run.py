# SPDX-License-Identifier: Apache-2.0
"""A training's configuration and its course so far, kept in a file to go on from.

The file holds everything the next epoch depends on: weights, the optimizer's moments and
the history of metrics, under the configuration that led there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_cloud.backbones.base import Backbone
from pocketrec_cloud.backbones.registry import make_backbone
from pocketrec_cloud.checkpoint import TABLE, read_tensors, table_entry, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import BackboneShape

__all__ = ["EpochRecord", "TrainingConfig", "TrainingRun"]

_FIRST_KIND = "sasrec"  # what a run is of that was saved when there was one kind only

_STOPPING_RULES = frozenset({"max_epochs", "patience", "max_minutes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How long and how hard to train.

    Attributes:
        max_epochs: Passes over the users at most.
        patience: Evaluations without a better validation NDCG@10 before stopping.
        evaluate_every: Epochs between two evaluations.
        max_minutes: Wall-clock limit, checked after every epoch; None = no limit. A
            resumed run has the same time again.
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
class TrainingRun:
    """The moving parts of one training.

    Attributes:
        model: The backbone as it is now.
        optimizer: With its moments.
        sequences: Training events per user, oldest first.
        history: One record per epoch done.
    """

    model: Backbone
    optimizer: torch.optim.Optimizer
    sequences: list[NDArray[np.int32]]
    history: list[EpochRecord] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        sequences: list[NDArray[np.int32]],
        backbone: BackboneShape | Backbone,
        config: TrainingConfig,
        *,
        device: str = "cpu",
    ) -> TrainingRun:
        """Return a run of no epochs, of a model; for a shape, the seed decides its weights."""
        torch.manual_seed(config.seed)
        model = backbone if isinstance(backbone, Backbone) else make_backbone(backbone)
        model.to(device)
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        return cls(model=model, optimizer=optimizer, sequences=sequences)

    def evaluations(self) -> list[float]:
        """Return the validation NDCG@10 of every epoch that was evaluated."""
        return [r.validation_ndcg10 for r in self.history if r.validation_ndcg10 is not None]

    def improves(self, record: EpochRecord) -> bool:
        """Return whether an epoch was evaluated, and is better than all before it."""
        ndcg = record.validation_ndcg10
        return ndcg is not None and ndcg > max(self.evaluations(), default=-1.0)

    def evaluations_since_best(self) -> int:
        """Count the evaluations after the best one."""
        values = self.evaluations()
        return len(values) - 1 - values.index(max(values)) if values else 0

    def n_decays(self, patience: int) -> int:
        """Count the stretches of ``patience`` evaluations without a better one."""
        best, waited, decays = 0.0, 0, 0
        for ndcg in self.evaluations():
            waited = 0 if ndcg > best else waited + 1
            best = max(best, ndcg)
            if waited == patience:
                waited, decays = 0, decays + 1
        return decays

    def save(self, path: Path, config: TrainingConfig) -> None:
        """Write everything needed to go on.

        Args:
            path: Where to; replaced atomically.
            config: The configuration of the epochs so far.
        """
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in moments.items()}
        metadata: dict[str, object] = {
            "backbone_kind": self.model.config.kind,
            "backbone": asdict(self.model.config),
            **table_entry(self.model),
            "training": asdict(config),
            "history": [asdict(record) for record in self.history],
        }
        write_tensors(path, tensors, metadata)

    def restore(self, path: Path, config: TrainingConfig) -> None:
        """Go back to where ``save`` was called.

        Args:
            path: What ``save`` wrote.
            config: Only when to stop may differ from the configuration saved.

        Raises:
            ConfigError: The file is of another backbone or configuration.
            MalformedArtifactError: The file is damaged.
        """
        tensors, header = read_tensors(path)
        _refuse_another(header.get("backbone_kind", _FIRST_KIND), self.model.config.kind, path)
        _refuse_another(header.get("backbone"), asdict(self.model.config), path)
        _refuse_another(header.get(TABLE), table_entry(self.model).get(TABLE), path)
        _refuse_another(
            _without_stopping_rules(header.get("training")),
            _without_stopping_rules(asdict(config)),
            path,
        )
        try:
            self._load(tensors, header)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise MalformedArtifactError(
                f"expected a training to go on with, found {error}; train again",
                field=str(path),
            ) from error

    def _load(self, tensors: dict[str, torch.Tensor], header: dict[str, object]) -> None:
        records = header["history"]
        if not isinstance(records, list):
            raise TypeError("a history that is no list")
        self.history = [EpochRecord(**record) for record in records]
        self.model.load_state_dict(_under(tensors, "model."))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer.").items():
            number, _, moment = name.partition(".")
            state.setdefault(int(number), {})[moment] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _refuse_another(found: object, expected: object, path: Path) -> None:
    if found != expected:
        raise ConfigError(
            f"expected to resume a run of {expected}, found {found} in {path}: "
            "resume it as it was begun, or name another folder"
        )


def _without_stopping_rules(fields: object) -> dict[str, object]:
    known = fields if isinstance(fields, dict) else {}
    return {name: value for name, value in known.items() if name not in _STOPPING_RULES}


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
