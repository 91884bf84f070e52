# SPDX-License-Identifier: Apache-2.0
"""The command ``compress``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch

from pocketrec.console import emit, json_option, json_text, stderr_console
from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec.files import write_atomically
from pocketrec_cloud.compression.allocation import LAYOUTS, Budget, float_bytes, lay_out, rows
from pocketrec_cloud.compression.choice import best_of, candidates, validate
from pocketrec_cloud.compression.compressing import Compression, compress, fine_tuning
from pocketrec_cloud.compression.labels import LABEL_SOURCES
from pocketrec_cloud.compression.report import compression_record, draw_compression
from pocketrec_cloud.compression.runs import TrainedRun, read_run
from pocketrec_cloud.data.options import data_options, read_split
from pocketrec_cloud.training_display import training_display

if TYPE_CHECKING:
    from pocketrec_cloud.compression.layout import TableLayout
    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = ["compress_run"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
_RUN = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("compress")
@data_options
@click.option("--run", "run_folder", type=_RUN, required=True, help="What `train` left.")
@click.option("--ratio", type=click.FloatRange(1), help="Bytes of float32 rows over the table's.")
@click.option("--bytes", "max_bytes", type=click.IntRange(1), help="What the table may weigh.")
@click.option("--rows", "n_rows", type=click.IntRange(1), help="Whole rows that items share.")
@click.option(
    "--layout",
    "layout_name",
    type=click.Choice(["auto", *LAYOUTS]),
    default="auto",
    show_default=True,
    help="auto fits all that the budget allows and takes what scores most like the float model.",
)
@click.option("--row-bits", type=click.Choice(["8", "4"]), help="Of codes; 8 when left out.")
@click.option(
    "--labels",
    "label_source",
    type=click.Choice(sorted(LABEL_SOURCES)),
    default="k-means",
    show_default=True,
    help="Which items share whole rows.",
)
@click.option(
    "--train-backbone/--frozen-backbone",
    "trains_backbone",
    default=False,
    show_default=True,
    help="Frozen, plans stay valid and only the table of a bundle changes.",
)
@click.option("--epochs", type=click.IntRange(0), default=10, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True))
@click.option("--max-minutes", type=click.FloatRange(0, min_open=True))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all when left out.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for the compressed run.")
@json_option
def compress_run(
    *,
    data: Path,
    data_format: str,
    user_column: str | None,
    item_column: str | None,
    time_column: str | None,
    run_folder: Path,
    ratio: float | None,
    max_bytes: int | None,
    n_rows: int | None,
    layout_name: str,
    row_bits: str | None,
    label_source: str,
    trains_backbone: bool,
    epochs: int,
    learning_rate: float | None,
    max_minutes: float | None,
    seed: int,
    threads: int | None,
    out: Path,
    json_path: str | None,
) -> None:
    """Compress the item table of a trained backbone, and train on with it."""
    wanted = _Wanted(
        ratio=ratio,
        max_bytes=max_bytes,
        n_rows=n_rows,
        layout_name=layout_name,
        bits=None if row_bits is None else int(row_bits),
    )
    if threads is not None:
        torch.set_num_threads(threads)
    split = read_split(data, data_format, user=user_column, item=item_column, time=time_column)
    run = _matching(read_run(run_folder), split, run_folder)
    tried = wanted.tried(run.model.config.n_items, run.model.config.embedding_dim)
    with stderr_console().status("fitting layouts, and ranking for the validation users"):
        found = validate(run.model, split, tried, seed) if len(tried) > 1 else []
    training = fine_tuning(run.training, epochs=epochs, learning_rate=learning_rate)
    how = Compression(
        layout=best_of(found).layout if found else tried[0][2],
        labels=LABEL_SOURCES[label_source] if wanted.shares_rows else None,
        trains_backbone=trains_backbone,
        training=replace(training, max_minutes=max_minutes, seed=seed) if epochs else None,
        seed=seed,
    )
    with training_display(stderr_console(), epochs) as display:
        compressed = compress(run.model, split, how, folder=out, progress=display)
    with stderr_console().status("ranking for the validation and test users"):
        record = compression_record(run.model, compressed, split, how, found)
    write_atomically(out / "compression.json", json_text(record).encode())
    emit(record, render=lambda console: draw_compression(console, record), json_path=json_path)


def _matching(run: TrainedRun, split: LeaveOneOut, folder: Path) -> TrainedRun:
    """Refuse the run of another catalogue."""
    if run.item_ids != split.dataset.item_ids:
        raise IncompatibleArtifactError(
            f"{folder}: expected the catalogue of the data ({split.dataset.n_items} items), "
            f"found another one ({len(run.item_ids)}): name the file it was trained on"
        )
    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The budget as it was typed, one of three, and how it may be spent."""

    ratio: float | None
    max_bytes: int | None
    n_rows: int | None
    layout_name: str
    bits: int | None

    def __post_init__(self) -> None:
        given = [value for value in (self.ratio, self.max_bytes, self.n_rows) if value is not None]
        if len(given) != 1:
            raise ConfigError("expected one of --ratio, --bytes and --rows: name one of them")
        if self.n_rows is not None and self.layout_name not in {"auto", "shared"}:
            raise ConfigError(f"--rows: expected the layout shared, found {self.layout_name!r}")

    @property
    def shares_rows(self) -> bool:
        """Whether groups of items share whole rows, and nothing else."""
        return self.layout_name == "shared" or self.n_rows is not None

    def tried(self, n_items: int, embedding_dim: int) -> list[tuple[str, int, TableLayout]]:
        """Return what may be taken: names, bits and layouts within the budget."""
        bits = self.bits or 8
        if self.n_rows is not None:
            layout = rows(min(self.n_rows, n_items), embedding_dim, bits)
            return [("shared", bits, layout)]
        max_bytes = self.max_bytes or 0
        if self.ratio is not None:
            max_bytes = int(float_bytes(n_items, embedding_dim) / self.ratio)
        budget = Budget(n_items=n_items, embedding_dim=embedding_dim, max_bytes=max(max_bytes, 1))
        if self.layout_name == "auto":
            return candidates(budget, self.bits)
        return [(self.layout_name, bits, lay_out(self.layout_name, budget, bits))]
