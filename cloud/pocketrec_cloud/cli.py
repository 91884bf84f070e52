# SPDX-License-Identifier: Apache-2.0
"""The commands ``train`` and ``bundle build``; ``plan make`` is in ``planning.cli``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec.files import write_atomically
from pocketrec_cloud.backbones.base import Backbone
from pocketrec_cloud.bundling import PLANNER, BuildConfig, build_bundle
from pocketrec_cloud.checkpoint import load_backbone
from pocketrec_cloud.data.options import data_options, read_split
from pocketrec_cloud.extractor import Extractor
from pocketrec_cloud.planning.cli import plan_make
from pocketrec_cloud.planning.planner_checkpoint import load_planner
from pocketrec_cloud.presets import PRESETS, preset
from pocketrec_cloud.results import draw_parts, draw_training, training_record
from pocketrec_cloud.training import train as train_backbone
from pocketrec_cloud.training_display import training_display
from pocketrec_quantization.personal import PersonalPlanner

__all__ = ["bundle_build", "plan_make", "train"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@data_options
@click.option("--out", type=_FOLDER, required=True, help="Folder for the checkpoints.")
@click.option(
    "--preset",
    "preset_name",
    type=click.Choice(sorted(PRESETS)),
    default="demo",
    show_default=True,
    help="Shape and course of the training.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--max-epochs", type=click.IntRange(1), help="Instead of the preset's.")
@click.option(
    "--max-minutes", type=click.FloatRange(0, min_open=True), help="Instead of the preset's."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all when left out.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, if there is one.")
@json_option
def train(
    *,
    data: Path,
    data_format: str,
    user_column: str | None,
    item_column: str | None,
    time_column: str | None,
    out: Path,
    preset_name: str,
    seed: int,
    max_epochs: int | None,
    max_minutes: float | None,
    threads: int | None,
    resume: bool,
    json_path: str | None,
) -> None:
    """Train a backbone on interactions, and test the best one once."""
    split = read_split(data, data_format, user=user_column, item=item_column, time=time_column)
    chosen = preset(preset_name)
    config = replace(
        chosen.training,
        seed=seed,
        max_epochs=max_epochs or chosen.training.max_epochs,
        max_minutes=chosen.training.max_minutes if max_minutes is None else max_minutes,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    with training_display(stderr_console(), config.max_epochs) as display:
        result = train_backbone(
            split,
            chosen.backbone(split.dataset.n_items),
            config,
            folder=out,
            progress=display,
            resume=resume,
        )
    record = training_record(result, split, preset_name=preset_name, config=config)
    write_atomically(out / "training.json", json.dumps(record, indent=2).encode())
    emit(record, render=lambda console: draw_training(console, record), json_path=json_path)


@click.command()
@data_options
@click.option("--checkpoint", type=_FILE, help="best.safetensors of a training.")
@click.option("--planner", type=_FILE, help="Of `planner train`, in place of a checkpoint.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for the bundle and its company.")
@click.option("--name", default="demo", show_default=True, help="Model line.")
@click.option("--version", type=click.IntRange(1), default=1, show_default=True)
@click.option("--average-bits", type=float, default=3.0, show_default=True)
@click.option("--license", "license_name", default="", help="Terms of the weights.")
@click.option("--executorch", is_flag=True, help="Add an ExecuTorch program.")
@json_option
def bundle_build(
    *,
    data: Path,
    data_format: str,
    user_column: str | None,
    item_column: str | None,
    time_column: str | None,
    checkpoint: Path | None,
    planner: Path | None,
    out: Path,
    name: str,
    version: int,
    average_bits: float,
    license_name: str,
    executorch: bool,
    json_path: str | None,
) -> None:
    """Quantize, plan and export a trained backbone, or a planner with its own, as a bundle."""
    source = _source(checkpoint, planner, out)
    split = read_split(data, data_format, user=user_column, item=item_column, time=time_column)
    if source.item_ids != split.dataset.item_ids:
        raise IncompatibleArtifactError(
            f"{planner or checkpoint}: expected the catalogue of {data} "
            f"({split.dataset.n_items} items), found another one ({len(source.item_ids)}): name "
            "the file it was trained on"
        )
    config = BuildConfig(
        model_name=name,
        version=version,
        created_at_s=int(time.time()),
        average_bits=average_bits,
        license=license_name,
        has_program=executorch,
        extract_window=source.extract_window,
    )
    with stderr_console().status("quantizing, measuring sensitivity, exporting, checking"):
        bundle = build_bundle(
            source.model,
            source.item_ids,
            split,
            out=out,
            config=config,
            facts=source.facts,
            extractor=source.extractor,
            planner=source.planner,
        )
    parts = {part.name: part.length_bytes for part in bundle.manifest.parts}
    result = {
        "folder": bundle.path,
        "digest": bundle.digest,
        "bundle_bytes": sum(parts.values()),
        "parts": parts,
    }
    emit(result, render=lambda console: draw_parts(console, parts, bundle), json_path=json_path)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    """What a bundle is built from."""

    model: Backbone
    item_ids: tuple[str, ...]
    facts: Mapping[str, object]
    extractor: Extractor | None = None
    extract_window: int = 200
    planner: PersonalPlanner | None = None


def _source(checkpoint: Path | None, planner: Path | None, out: Path) -> _Source:
    if planner is not None and planner.resolve() == (out / PLANNER).resolve():
        raise ConfigError(
            f"--out: expected a folder whose {PLANNER} may be replaced, found that it is what "
            "--planner names: name another folder"
        )
    if planner is not None and checkpoint is None:
        trained = load_planner(planner)
        return _Source(
            model=trained.model,
            item_ids=trained.item_ids,
            facts={"planner": dict(trained.facts)},
            extractor=trained.extractor,
            extract_window=trained.extract_window,
            planner=trained.planner,
        )
    if checkpoint is None or planner is not None:
        raise ConfigError("expected --checkpoint or --planner: name one of them")
    model, item_ids, header = load_backbone(checkpoint)
    facts = {"validation_ndcg@10": header.get("ndcg@10"), "trained_epochs": header.get("epoch")}
    return _Source(model=model, item_ids=item_ids, facts=facts)
