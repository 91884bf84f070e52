# SPDX-License-Identifier: Apache-2.0
"""What a compression cost in quality and saved in bytes: a record, and a table of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pocketrec.metrics import paired_bootstrap
from pocketrec_cloud.compression.allocation import float_bytes
from pocketrec_cloud.compression.item_tables import item_table
from pocketrec_cloud.evaluation import SequenceModel, rank_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.compression.choice import Candidate
    from pocketrec_cloud.compression.compressing import Compressed, Compression
    from pocketrec_cloud.data.split import LeaveOneOut, Stage
    from pocketrec_cloud.evaluation import Quality

__all__ = ["RelativeChange", "compression_record", "draw_compression", "relative_change"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeChange:
    """A mean over users against another one: -0.02 is two percent less.

    Attributes:
        mean: Of the difference, as a share of the mean before.
        interval: 95 %, from resampled users, each with both values.
    """

    mean: float
    interval: tuple[float, float]


def relative_change(after: Quality, before: Quality) -> RelativeChange:
    """Return what became of NDCG@10.

    Args:
        after: Of the same users, in the same order.
        before: The reference; its mean is above 0.
    """
    base = before.per_user("ndcg", 10)
    found = paired_bootstrap(after.per_user("ndcg", 10), base)
    scale = max(float(base.mean()), 1e-12)
    return RelativeChange(mean=found.mean / scale, interval=(found.low / scale, found.high / scale))


def compression_record(
    trained: Backbone,
    compressed: Compressed,
    split: LeaveOneOut,
    how: Compression,
    found: Sequence[Candidate] = (),
) -> dict[str, Any]:
    """Rank the validation and test users with both models.

    Args:
        trained: Before.
        compressed: After.
        split: The interactions.
        how: What was done.
        found: What else was tried, if anything.

    Returns:
        Bytes, layout, quality before and after, its change with intervals, and the course.
    """
    model = compressed.model
    table = item_table(model.item_embedding, split.dataset.item_ids, 0)
    before_bytes = float_bytes(model.config.n_items, model.config.embedding_dim)
    return {
        "kind": model.config.kind,
        "n_items": model.config.n_items,
        "bytes_before": before_bytes,
        "bytes": table.embedding_bytes,
        "ratio": before_bytes / table.embedding_bytes,
        "bytes_per_item": table.embedding_bytes / model.config.n_items,
        "rows": how.layout.n_rows,
        "candidates": [
            {
                "layout": each.name,
                "row_bits": each.bits,
                "divergence": each.divergence,
                "validation_ndcg@10": each.ndcg10,
            }
            for each in found
        ],
        "codebooks": [asdict(book) for book in how.layout.codebooks],
        "backbone": "trained" if how.trains_backbone else "frozen",
        "validation": _stage(trained, model, split, "validation", how.seed),
        "test": _stage(trained, model, split, "test", how.seed),
        "fitted_validation_ndcg@10": compressed.fitted_ndcg10,
        "best_epoch": compressed.best_epoch,
        "epochs": len(compressed.history),
        "training_minutes": sum(record.seconds for record in compressed.history) / 60,
        "training": None if how.training is None else asdict(how.training),
        "seed": how.seed,
    }


def _stage(
    before: Backbone, after: Backbone, split: LeaveOneOut, stage: Stage, seed: int
) -> dict[str, Any]:
    qualities = [
        rank_all(SequenceModel(model, model.config.window), split, stage=stage, seed=seed)
        for model in (before, after)
    ]
    return {
        **{
            name: {"hr@10": quality.mean("hr", 10), "ndcg@10": quality.mean("ndcg", 10)}
            for name, quality in zip(("before", "after"), qualities, strict=True)
        },
        "ndcg@10_change": asdict(relative_change(qualities[1], qualities[0])),
    }


def draw_compression(console: Console, record: Mapping[str, Any]) -> None:
    """Draw bytes and quality, before and after.

    Args:
        console: Where to.
        record: What ``compression_record`` returned.
    """
    title = f"Item table, {record['n_items']:,} items: 1/{record['ratio']:.1f} of the bytes"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "before", "after", "change", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    sizes = (record["bytes_before"], record["bytes"])
    table.add_row("bytes", *(f"{size:,}" for size in sizes), f"{sizes[1] / sizes[0] - 1:+.1%}")
    for stage in ("validation", "test"):
        values, change = record[stage], record[stage]["ndcg@10_change"]
        low, high = change["interval"]
        shown = [f"{values[when]['ndcg@10']:.4f}" for when in ("before", "after")]
        interval = f"{low:+.1%} to {high:+.1%}"
        table.add_row(f"NDCG@10, {stage}", *shown, f"{change['mean']:+.1%}", interval)
    console.print(table)
