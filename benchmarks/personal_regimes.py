# SPDX-License-Identifier: Apache-2.0
"""Where precision binds at all: what a float backbone loses when it is rounded as it is.

usage: python -m benchmarks.personal_regimes --data ml-100k/ml-100k.inter --work work/personal \
           --dims 16,64,128 --blocks 1,4 --windows 10,50

Nothing is trained after rounding. A plan has something to decide only where the widths that it
chooses between differ. ``personal`` shows what this leaves in its work folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.personal_settings import Recipe, Setup, recipe_of
from benchmarks.planner_settings import dataset_name
from pocketrec.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.personal_model import Trained
    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.backbones.sasrec import SASRecConfig
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.planning.contest import Contest

__all__ = ["REGIMES_FILE", "main", "regimes"]

REGIMES_FILE = "regimes.json"
_WEIGHT_BITS = (8, 4, 2)
_LARGEST_ACTIVATION = 127


def regimes(data: Path, shapes: list[dict[str, int]], work: Path) -> Iterator[dict[str, Any]]:
    """Round one backbone of every shape to each width.

    Args:
        data: File of interactions.
        shapes: ``embedding_dim``, ``n_blocks``, ``window``, ``ffn_multiplier`` of each, where
            it differs from the usual backbone of the dataset.
        work: Where backbones are kept between runs; those of ``personal`` are taken over.

    Yields:
        ``dataset`` and the shape; ``fp32``, NDCG@10 on test by full ranking; ``w8``, ``w4``,
        ``w2`` and ``w2a8``, the same after rounding: weights with the quantizer's scales,
        activations to 8 bits by the largest number of each event.
    """
    from benchmarks.personal_pretraining import pretrain
    from pocketrec_cloud.data.readers import read_interactions
    from pocketrec_cloud.data.split import leave_one_out
    from pocketrec_cloud.planning.contest import Contest

    dataset, _ = read_interactions(data, format="auto", columns=None)
    split = leave_one_out(dataset)
    contest = Contest.of(split, "test", seed=0)
    for shape in shapes:
        name, recipe = dataset_name(data), recipe_of(dataset_name(data))
        config = _config(split, recipe, shape)
        model = pretrain(split, config, recipe, work / _folder(name, recipe, config), seed=0)
        sizes = {key: getattr(config, key) for key in _USUAL}
        yield {"dataset": name, **sizes, **_losses(model, config.ffn_multiplier, contest)}


_USUAL = {"embedding_dim": 64, "n_blocks": 2, "window": 20, "ffn_multiplier": 1}


def _config(split: LeaveOneOut, recipe: Recipe, shape: dict[str, int]) -> SASRecConfig:
    from pocketrec_cloud.backbones.sasrec import SASRecConfig

    usual = {**_USUAL, "embedding_dim": recipe.dim, "window": recipe.window}
    return SASRecConfig(n_items=split.dataset.n_items, dropout=recipe.dropout, **{**usual, **shape})


def _folder(name: str, recipe: Recipe, config: SASRecConfig) -> str:
    """Return where ``personal`` keeps its first seed of this shape, or a place of our own."""
    if (config.embedding_dim, config.n_blocks, config.window) == (recipe.dim, 2, recipe.window):
        return f"{name}-sasrec-0-x{config.ffn_multiplier}"
    return f"{name}-regime-d{config.embedding_dim}-b{config.n_blocks}-w{config.window}"


def _losses(model: Backbone, multiplier: int, contest: Contest) -> dict[str, float]:
    from benchmarks.personal_model import Trained

    found = {}
    for bits in (0, *_WEIGHT_BITS):
        setup = Setup(multiplier=multiplier, bits=bits, plan="none")
        trained = Trained(model, setup).eval()
        found[f"w{bits}" if bits else "fp32"] = _ndcg(trained, contest)
    round_activations(trained)
    return {**found, "w2a8": _ndcg(trained, contest)}


def round_activations(trained: Trained) -> None:
    """Round what the coded layers read to 8 bits, event by event."""

    def rounded(_module: object, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        step = x.abs().amax(dim=-1, keepdim=True) / _LARGEST_ACTIVATION + 1e-12
        return ((x / step).round() * step,)

    for layer in trained.coded:
        layer.register_forward_pre_hook(rounded)


def _ndcg(trained: Trained, contest: Contest) -> float:
    z = trained.describe_all(contest.histories)
    return contest.ranks(trained.scorer(contest.histories, z)).full.mean("ndcg", 10)


def _numbers(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FILE, required=True, help="File of interactions.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Of ``personal``.")
@click.option("--dims", default="", callback=_numbers, help="Other D, separated by commas.")
@click.option("--blocks", default="", callback=_numbers, help="Other depths.")
@click.option("--windows", default="", callback=_numbers, help="Other histories.")
@click.option("--pools", default="", callback=_numbers, help="Other widths, as multiples of D.")
def main(
    *,
    data: Path,
    work: Path,
    dims: tuple[int, ...],
    blocks: tuple[int, ...],
    windows: tuple[int, ...],
    pools: tuple[int, ...],
) -> None:
    """Round backbones of several shapes, one thing changed at a time."""
    import torch

    torch.set_num_threads(1)
    shapes: list[dict[str, int]] = [{}]
    for key, values in zip(_USUAL, (dims, blocks, windows, pools), strict=True):
        shapes += [{key: value} for value in values]
    path = work / REGIMES_FILE
    known = json.loads(path.read_text()) if path.exists() else []
    for found in regimes(data, shapes, work):
        same = {"dataset": found["dataset"], **{key: found[key] for key in _USUAL}}
        known = [row for row in known if {key: row[key] for key in same} != same]
        known.append(found)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(known).encode())
        click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
