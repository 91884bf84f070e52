# SPDX-License-Identifier: Apache-2.0
"""The command ``planner train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec_cloud.backbones.registry import make_backbone
from pocketrec_cloud.checkpoint import load_backbone
from pocketrec_cloud.data.options import data_options, read_split
from pocketrec_cloud.planning.configuration import TRAINED_LEVELS, PlannerTraining
from pocketrec_cloud.planning.contest import Contest
from pocketrec_cloud.planning.planner_checkpoint import save_planner
from pocketrec_cloud.planning.planner_training import train_planner
from pocketrec_cloud.training_display import training_display
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.control_planners import ShuffledPlanner
from pocketrec_quantization.levels import DEFAULT_LEVELS, PRUNING_LEVELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.planning.planned import PlannedBackbone

__all__ = ["planner_train"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_INITS = ("pretrained_frozen", "random_frozen")
_STYLES = ("standardised", "paper")
_TIERS = {"2,4,8": DEFAULT_LEVELS, "0,4,8": PRUNING_LEVELS}


@click.command()
@data_options
@click.option("--checkpoint", type=_FILE, required=True, help="best.safetensors of a training.")
@click.option(
    "--init",
    type=click.Choice(_INITS),
    default=_INITS[0],
    show_default=True,
    help="Freeze the checkpoint's matrices, or random ones of its shape, as the paper does.",
)
@click.option(
    "--scores",
    type=click.Choice(_STYLES),
    default=_STYLES[0],
    show_default=True,
    help="Rank channels by what sets a user apart, or as the paper does.",
)
@click.option(
    "--tiers",
    type=click.Choice(sorted(_TIERS)),
    default="2,4,8",
    show_default=True,
    help="What the tiers mean in bits; 0 prunes.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--average-bits", type=click.FloatRange(2, 8), default=3.0, show_default=True)
@click.option("--max-epochs", type=click.IntRange(1), default=60, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="As torch names it.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all when left out.")
@json_option
def planner_train(
    *,
    data: Path,
    data_format: str,
    user_column: str | None,
    item_column: str | None,
    time_column: str | None,
    checkpoint: Path,
    init: str,
    scores: str,
    tiers: str,
    out: Path,
    average_bits: float,
    max_epochs: int,
    seed: int,
    device: str,
    threads: int | None,
    json_path: str | None,
) -> None:
    """Train a personal planner for a backbone, and test it beside strangers' plans."""
    _check_device(device)
    model, item_ids, _ = load_backbone(checkpoint)
    split = read_split(data, data_format, user=user_column, item=item_column, time=time_column)
    if item_ids != split.dataset.item_ids:
        raise IncompatibleArtifactError(
            f"{checkpoint}: expected the catalogue of {data} ({split.dataset.n_items} items), "
            f"found another one ({len(item_ids)}): name the file it was trained on"
        )
    config = PlannerTraining(
        max_epochs=max_epochs,
        average_bits=average_bits,
        bit_range=(min(2.25, average_bits), 8.0),
        is_standardised=scores == "standardised",
        level_tables=(_TIERS[tiers], *TRAINED_LEVELS[1:]),
        seed=seed,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    with training_display(stderr_console(), max_epochs) as display:
        frozen = _frozen(model, init, seed)
        result = train_planner(split, frozen, config, device=device, progress=display)
    choices = {"init": init, "scores": scores, "tiers": tiers, "average_bits": average_bits}
    facts = choices | {"test": _test(result.planned, split, seed)}
    saved = save_planner(out, result.planned, item_ids, facts)
    record = {
        "planner": out,
        "model_digest": saved.planner.model_digest,
        "epochs": len(result.history),
        "validation_ndcg@10": result.best.validation_ndcg10,
        **facts,
    }
    emit(record, render=lambda console: _draw(console, record), json_path=json_path)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:  # the former where torch is built without it
        raise ConfigError(
            f"--device: expected a device of this machine as torch names it, such as cpu, got "
            f"{name!r}"
        ) from error


def _frozen(model: Backbone, init: str, seed: int) -> Backbone:
    if init == "pretrained_frozen":
        return model
    torch.manual_seed(seed)
    return make_backbone(model.config).eval()


def _test(planned: PlannedBackbone, split: LeaveOneOut, seed: int) -> dict[str, dict[str, float]]:
    """Return test quality under one's own plan, a stranger's plan, and float weights."""
    contest = Contest.of(split, "test", seed=seed)
    z = planned.user_embeddings(contest.histories).cpu().numpy()
    planner = planned.planner(bytes(32))
    budget = budget_bytes(planned.mixed.layers, planned.config.average_bits)
    strangers = ShuffledPlanner(planner=planner, strangers=z, seed=seed)
    plans: dict[str, NDArray[np.uint8] | None] = {
        "own plan": planner.plan(z, budget),
        "stranger's plan": strangers.plan(z, budget),
        "float32": None,
    }
    found = {}
    for name, codes in plans.items():
        tensor = None if codes is None else torch.from_numpy(codes.astype("int64"))
        quality = contest.ranks(planned.scorer(contest.histories, tensor)).full
        found[name] = {"hr@10": quality.mean("hr", 10), "ndcg@10": quality.mean("ndcg", 10)}
    return found


def _draw(console: Console, record: dict[str, Any]) -> None:
    table = Table(title="Test users' last event, all items", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("weights", "HR@10", "NDCG@10"):
        table.add_column(column, justify="left" if column == "weights" else "right")
    for name, values in record["test"].items():
        table.add_row(name, f"{values['hr@10']:.4f}", f"{values['ndcg@10']:.4f}")
    console.print(table)
    console.print(
        f"{record['planner']}: give it to `pocketrec bundle build --planner`",
        markup=False,
        soft_wrap=True,
    )
