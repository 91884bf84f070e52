# SPDX-License-Identifier: Apache-2.0
"""Reads interaction files of the formats people have.

======================  ==========================================  ==================
format                  looks like                                  order of events
======================  ==========================================  ==================
``sequences``           ``user item item ...``, by white space      as in the line
``recbole``             tabs, header ``user_id:token ...``          by time, stable
``movielens``           ``user::item::rating::timestamp``           by time, stable
``csv`` (``.tsv`` too)  header with names, double quotes allowed    by time, stable
``parquet``             named columns                               by time, stable
======================  ==========================================  ==================

Nothing is dropped silently: a line that cannot be read is a `DataError` with its number,
and everything that is left out on purpose is counted in the `ReadReport`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow as pa

from pocketrec.errors import ConfigError, DataError
from pocketrec_cloud.data.arrow import encode_ids, is_too_long
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.delimited import Dialect, read_delimited, read_header, require_columns
from pocketrec_cloud.data.events import EventTable, Source, group_events
from pocketrec_cloud.data.lines import decoded_lines
from pocketrec_cloud.data.parquet import read_parquet
from pocketrec_cloud.data.report import ReadReport
from pocketrec_cloud.data.split import MIN_EVENTS
from pocketrec_quantization.limits import MAX_ITEM_ID_BYTES

__all__ = ["Columns", "InteractionFormat", "read_interactions"]


class InteractionFormat(StrEnum):
    """How an interaction file is laid out."""

    AUTO = "auto"
    SEQUENCES = "sequences"
    RECBOLE = "recbole"
    MOVIELENS = "movielens"
    CSV = "csv"
    PARQUET = "parquet"


_FORMAT_BY_SUFFIX = {
    ".txt": InteractionFormat.SEQUENCES,
    ".inter": InteractionFormat.RECBOLE,
    ".dat": InteractionFormat.MOVIELENS,
    ".csv": InteractionFormat.CSV,
    ".tsv": InteractionFormat.CSV,
    ".parquet": InteractionFormat.PARQUET,
    ".pq": InteractionFormat.PARQUET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which named columns hold what.

    Attributes:
        user: The user's id.
        item: The item's id.
        time: A number that grows with time, in any unit; None takes the file's order.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"

    @property
    def names(self) -> tuple[str, ...]:
        """User, item and, where there is one, time."""
        return (self.user, self.item, *((self.time,) if self.time is not None else ()))


def read_interactions(
    path: str | Path,
    *,
    format: InteractionFormat | str = InteractionFormat.AUTO,  # noqa: A002  # what people call it
    columns: Columns | None = None,
    min_events_per_user: int = MIN_EVENTS,
) -> tuple[SequenceDataset, ReadReport]:
    """Read a file of interactions.

    Args:
        path: The file.
        format: How it is laid out; ``"auto"`` goes by the file's suffix.
        columns: The names of its columns, for the formats that have names.
        min_events_per_user: Users with fewer events are left out, and counted.

    Returns:
        Every kept user's events, oldest first, and the counts of what was read and dropped.

    Raises:
        ConfigError: The format is unknown, or columns are named for a format without names.
        DataError: The file does not hold what its format says; with line number and reason.
        OSError: The file cannot be read.
    """
    path = Path(path)
    layout = _format_of(path, format)
    if layout in _READERS_WITH_NAMES:
        events, source = _READERS_WITH_NAMES[layout](path, columns or Columns())
    elif columns is not None:
        raise ConfigError(f"the format {str(layout)!r} has no named columns: leave them out")
    else:
        events, source = _READERS[layout](path)
    return group_events(events, source, min_events_per_user=min_events_per_user)


def _format_of(path: Path, asked: InteractionFormat | str) -> InteractionFormat:
    try:
        layout = InteractionFormat(asked)
    except ValueError as error:
        known = ", ".join(InteractionFormat)
        raise ConfigError(f"expected a format among {known}, got {asked!r}") from error
    if layout is not InteractionFormat.AUTO:
        return layout
    suffix = path.suffix.lower()
    if suffix not in _FORMAT_BY_SUFFIX:
        known = ", ".join(_FORMAT_BY_SUFFIX)
        raise DataError(f"expected a suffix among {known}: name the format", path=str(path))
    return _FORMAT_BY_SUFFIX[suffix]


def _read_sequences(path: Path) -> tuple[EventTable, Source]:
    line_of_user: dict[str, int] = {}
    tokens: list[str] = []
    lengths: list[int] = []
    number = 0
    for number, line in enumerate(decoded_lines(path), start=1):
        if not (fields := line.split()):
            continue
        if (first := line_of_user.setdefault(fields[0], number)) != number:
            raise DataError(
                f"expected every user on one line, found {fields[0]!r} again, who is on line"
                f" {first}: join the two lines",
                path=str(path),
                line=number,
            )
        for item_id in filter(is_too_long, fields[1:]):
            raise DataError(
                f"expected item ids of at most {MAX_ITEM_ID_BYTES} bytes, found {item_id[:40]!r}…",
                path=str(path),
                line=number,
            )
        tokens += fields[1:]
        lengths.append(len(fields) - 1)
    item_ids, items = encode_ids(pa.array(tokens, pa.string()))
    events = EventTable(
        user_ids=tuple(line_of_user),
        item_ids=item_ids,
        users=np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
        items=items,
    )
    return events, Source(
        path=str(path),
        format=InteractionFormat.SEQUENCES,
        n_lines=number,
        n_blank_lines=number - len(lengths),
    )


def _read_movielens(path: Path) -> tuple[EventTable, Source]:
    dialect = Dialect(
        separator="::",
        is_quoted=False,
        names=("user", "item", "rating", "timestamp"),
        has_header=False,
        wanted=("user", "item", "timestamp"),
    )
    return read_delimited(path, dialect, file_format=InteractionFormat.MOVIELENS)


def _read_recbole(path: Path, columns: Columns) -> tuple[EventTable, Source]:
    names = read_header(path, separator="\t", is_quoted=False)
    dialect = Dialect(
        separator="\t",
        is_quoted=False,
        names=names,
        has_header=True,
        wanted=_typed_names(path, names, columns),
    )
    return read_delimited(path, dialect, file_format=InteractionFormat.RECBOLE)


def _typed_names(path: Path, header: tuple[str, ...], columns: Columns) -> tuple[str, ...]:
    # https://recbole.io/docs/user_guide/data/atomic_files.html: every name carries its type
    types = dict(name.rpartition(":")[::2] for name in header)
    untyped = [name for name in header if ":" not in name]
    if untyped:
        raise DataError(
            f"expected names with types, such as 'user_id:token', found {untyped[0]!r}",
            path=str(path),
            line=1,
        )
    require_columns(path, tuple(types), columns.names)
    for name, expected in zip(columns.names, ("token", "token", "float"), strict=False):
        if types[name] != expected:
            raise DataError(
                f"expected the column {name!r} to be of type {expected!r}, found {types[name]!r}",
                path=str(path),
                line=1,
            )
    return tuple(f"{name}:{types[name]}" for name in columns.names)


def _read_csv(path: Path, columns: Columns) -> tuple[EventTable, Source]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    names = read_header(path, separator=separator, is_quoted=True)
    require_columns(path, names, columns.names)
    dialect = Dialect(
        separator=separator, is_quoted=True, names=names, has_header=True, wanted=columns.names
    )
    return read_delimited(path, dialect, file_format=InteractionFormat.CSV)


def _read_parquet(path: Path, columns: Columns) -> tuple[EventTable, Source]:
    return read_parquet(path, columns.names, file_format=InteractionFormat.PARQUET)


_READERS: dict[InteractionFormat, Callable[[Path], tuple[EventTable, Source]]] = {
    InteractionFormat.SEQUENCES: _read_sequences,
    InteractionFormat.MOVIELENS: _read_movielens,
}
_READERS_WITH_NAMES: dict[
    InteractionFormat, Callable[[Path, Columns], tuple[EventTable, Source]]
] = {
    InteractionFormat.RECBOLE: _read_recbole,
    InteractionFormat.CSV: _read_csv,
    InteractionFormat.PARQUET: _read_parquet,
}
