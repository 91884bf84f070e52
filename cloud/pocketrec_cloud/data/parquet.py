# SPDX-License-Identifier: Apache-2.0
"""Reads Parquet files with one interaction per row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pocketrec.errors import DataError
from pocketrec_cloud.data.arrow import encode_events
from pocketrec_cloud.data.delimited import require_columns
from pocketrec_cloud.data.events import EventTable, Source
from pocketrec_quantization.limits import MAX_ITEM_ID_BYTES

__all__ = ["read_parquet"]

_MAX_TIME = 2**63 - 1


def read_parquet(
    path: Path, wanted: tuple[str, ...], *, file_format: str
) -> tuple[EventTable, Source]:
    """Read one interaction per row; ids are text or whole numbers.

    Args:
        path: The file.
        wanted: Names of the columns of user, item and (where there is one) time. Times are
            numbers, dates or timestamps.
        file_format: The name of the format, for the report.

    Returns:
        The events in the order of the file, and where they came from.

    Raises:
        DataError: The file is no sound Parquet file, lacks a column or has one of another
            type; or a value is empty, too long or not finite (the error has its row, from 1).
        OSError: The file cannot be read.
    """
    with path.open("rb"):  # what the system refuses; for PyArrow damage is an OSError too
        pass
    try:
        with pq.ParquetFile(path) as file:
            require_columns(path, tuple(file.schema_arrow.names), wanted)
            table = file.read(columns=list(wanted))
            table.validate(full=True)  # text that is no UTF-8, for one
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"expected a sound Parquet file: {error}", path=str(path)) from error
    ids = [_as_ids(path, table[name], name) for name in wanted[:2]]
    is_long = pc.greater(pc.binary_length(ids[1]), MAX_ITEM_ID_BYTES)
    _refuse(path, is_long, f"expected item ids of at most {MAX_ITEM_ID_BYTES} bytes")
    times = [_as_numbers(path, table[name], name) for name in wanted[2:]]
    events = encode_events(*ids, *times)
    return events, Source(path=str(path), format=file_format, n_lines=table.num_rows)


def _as_ids(path: Path, column: Any, name: str) -> Any:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        raise DataError(
            f"expected ids as text or whole numbers in {name!r}, found {kind}", path=str(path)
        )
    texts = pc.cast(column, pa.string())
    _refuse(path, pc.is_null(texts), f"expected an id in {name!r}, found nothing")
    _refuse(path, pc.equal(texts, ""), f"expected an id in {name!r}, found nothing")
    return texts


def _as_numbers(path: Path, column: Any, name: str) -> Any:
    _refuse(path, pc.is_null(column), f"expected a time in {name!r}, found nothing")
    if pa.types.is_date(column.type):
        column = pc.cast(column, pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        return pc.cast(column, pa.int64())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(
            f"expected numbers or timestamps in {name!r}, found {column.type}", path=str(path)
        )
    if pa.types.is_uint64(column.type):
        is_wrong = pc.greater(column, pa.scalar(_MAX_TIME, pa.uint64()))
        _refuse(path, is_wrong, f"expected a time of at most {_MAX_TIME} in {name!r}")
        return pc.cast(column, pa.int64())
    if pa.types.is_floating(column.type):
        is_wrong = pc.invert(pc.is_finite(column))
        _refuse(path, is_wrong, f"expected a finite number in {name!r}")
    return column


def _refuse(path: Path, is_wrong: Any, reason: str) -> None:
    row = pc.index(is_wrong, value=True).as_py()  # -1 where there is none
    if row >= 0:
        raise DataError(reason, path=str(path), line=row + 1)
