# SPDX-License-Identifier: Apache-2.0
"""One tiny backbone, trained and bundled once for all tests that look at the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.training import EpochRecord, TrainingResult
    from pocketrec_quantization.bundle import BundleFolder


class Watcher:
    """Remembers what a training reports."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.records: list[EpochRecord] = []

    def batch(self, *, epoch: int, done: float, loss: float) -> None:
        """Take note of a batch."""
        self.shares.append(epoch - 1 + done)

    def epoch(self, record: EpochRecord) -> None:
        """Take note of an epoch."""
        self.records.append(record)


@dataclass(frozen=True)
class Trained:
    """A training and the data it saw."""

    split: LeaveOneOut
    result: TrainingResult
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The best model's file."""
        return self.folder / "best.safetensors"


@dataclass(frozen=True)
class Built:
    """A bundle and the files beside it."""

    bundle: BundleFolder
    folder: Path


@pytest.fixture
def watcher() -> Watcher:
    """Somebody who watches a training."""
    return Watcher()


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Torch on one thread: results do not depend on the machine, and nobody is crowded out."""
    torch = pytest.importorskip("torch", reason="needs the extra 'cloud'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_split() -> LeaveOneOut:
    """300 users over 60 items in 6 series, which a model can learn in a second."""
    from pocketrec_cloud.data.split import leave_one_out
    from pocketrec_cloud.data.synthetic import SyntheticConfig, synthetic_interactions

    config = SyntheticConfig(
        n_users=300,
        n_items=60,
        n_groups=6,
        mean_events=16,
        n_interests=2,
        in_series=0.9,
        stray=0.02,
    )
    return leave_one_out(synthetic_interactions(config).dataset)


@pytest.fixture(scope="session")
def tiny_file(tiny_split: LeaveOneOut, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny interactions as a file."""
    dataset = tiny_split.dataset
    lines = (
        " ".join([dataset.user_ids[u], *(dataset.item_ids[i - 1] for i in dataset.sequence(u))])
        for u in range(dataset.n_users)
    )
    path = tmp_path_factory.mktemp("tiny-data") / "interactions.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_training(
    one_thread: None, tiny_split: LeaveOneOut, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """A backbone of 16 dimensions and a window of 8 that has learned the series."""
    from pocketrec_cloud.backbones.sasrec import SASRecConfig
    from pocketrec_cloud.training import TrainingConfig, train

    folder = tmp_path_factory.mktemp("tiny-training")
    shape = SASRecConfig(
        n_items=60, embedding_dim=16, n_heads=2, window=8, ffn_multiplier=2, dropout=0.0
    )
    config = TrainingConfig(
        max_epochs=10, evaluate_every=5, tokens_per_batch=256, learning_rate=1e-2, n_negatives=60
    )
    result = train(tiny_split, shape, config, folder=folder, progress=Watcher())
    return Trained(split=tiny_split, result=result, folder=folder)


@pytest.fixture(scope="session")
def tiny_build(tiny_training: Trained, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """That backbone as a bundle; do not write into it."""
    from pocketrec_cloud.bundling import BuildConfig, build_bundle

    folder = tmp_path_factory.mktemp("tiny-build")
    bundle = build_bundle(
        tiny_training.result.model,
        tiny_training.split.dataset.item_ids,
        tiny_training.split,
        out=folder,
        config=BuildConfig(
            model_name="tiny", version=3, created_at_s=1_700_000_000, license="CC0-1.0"
        ),
        facts={"validation_ndcg@10": 0.5},
    )
    return Built(bundle=bundle, folder=folder)
