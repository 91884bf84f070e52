# SPDX-License-Identifier: Apache-2.0
"""Shows a training as it runs: a bar per epoch with its rate, and a line per evaluation."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from pocketrec_cloud.training import EpochRecord

__all__ = ["TrainingDisplay", "training_display"]


class _RateColumn(ProgressColumn):
    """Seconds per epoch; empty until there is something to measure."""

    def render(self, task: Task) -> Text:
        return Text(f"{1 / task.speed:.1f} s/epoch" if task.speed else "")


class TrainingDisplay:
    """The progress a person sees; see ``training_display``."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task
        self._best = 0.0

    def batch(self, *, epoch: int, done: float, loss: float) -> None:
        """Move the bar: ``epoch - 1 + done`` epochs are behind us."""
        self._bars.update(self._task, completed=epoch - 1 + done, loss=loss)

    def epoch(self, record: EpochRecord) -> None:
        """Print a line where an evaluation ran."""
        self._bars.update(self._task, completed=record.epoch)
        if record.validation_ndcg10 is None:
            return
        is_best = record.validation_ndcg10 > self._best
        self._best = max(self._best, record.validation_ndcg10)
        self._bars.console.print(
            f"epoch {record.epoch:>3}  loss {record.loss:.4f}  {record.seconds:5.1f} s  "
            f"validation HR@10 {record.validation_hr10:.4f}  NDCG@10 "
            f"{record.validation_ndcg10:.4f}{'  best' if is_best else ''}"
        )


@contextmanager
def training_display(console: Console, max_epochs: int) -> Iterator[TrainingDisplay]:
    """Draw a training on a console.

    Args:
        console: Where to.
        max_epochs: Where the bar ends; training usually stops before.

    Yields:
        The ``Progress`` to hand to ``train``.
    """
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=None),
        TextColumn("epoch {task.completed:.1f} of at most {task.total}"),
        TextColumn("loss {task.fields[loss]:.3f}"),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield TrainingDisplay(bars, bars.add_task("training", total=max_epochs, loss=float("nan")))
