# SPDX-License-Identifier: Apache-2.0
"""Reads files of one interaction per line: CSV, RecBole's ``.inter``, MovieLens' ``ratings.dat``.

PyArrow parses and checks whole columns at once. Only when it refuses the file is it read
again, line by line, to say which line is wrong and why.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv

from pocketrec.errors import DataError
from pocketrec_cloud.data.arrow import encode_events, is_too_long
from pocketrec_cloud.data.events import EventTable, Source
from pocketrec_cloud.data.lines import count_lines, decoded_lines
from pocketrec_quantization.limits import MAX_ITEM_ID_BYTES

__all__ = ["Dialect", "read_delimited", "read_header", "require_columns"]

_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_UNIT_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a file separates its fields, and which of them matter.

    Attributes:
        separator: Between two fields; any text.
        is_quoted: Whether double quotes may surround a field.
        names: The fields' names, in the order of the file.
        has_header: Whether the first line holds the names.
        wanted: Names of user, item and (where there is one) time.
    """

    separator: str
    is_quoted: bool
    names: tuple[str, ...]
    has_header: bool
    wanted: tuple[str, ...]


def read_delimited(path: Path, dialect: Dialect, *, file_format: str) -> tuple[EventTable, Source]:
    """Read one interaction per line.

    Args:
        path: The file.
        dialect: How to take it apart.
        file_format: The name of the format, for the report.

    Returns:
        The events in the order of the file, and where they came from.

    Raises:
        DataError: A line has another number of fields, an empty id, an item id that no item
            table could hold, or a time that is no finite number; the error has its line number.
        OSError: The file cannot be read.
    """
    try:
        columns = _parse(path, dialect)
        events = encode_events(*(columns[name] for name in dialect.wanted))
    except (pa.ArrowInvalid, ValueError) as error:
        _blame_line(path, dialect, error)
    n_lines, n_blank_lines = count_lines(path)
    return events, Source(
        path=str(path), format=file_format, n_lines=n_lines, n_blank_lines=n_blank_lines
    )


def read_header(path: Path, *, separator: str, is_quoted: bool) -> tuple[str, ...]:
    """Return the names in a file's first line.

    Args:
        path: The file.
        separator: Between two names; one character.
        is_quoted: Whether double quotes may surround a name.

    Raises:
        DataError: The file is empty.
        OSError: The file cannot be read.
    """
    dialect = Dialect(
        separator=separator, is_quoted=is_quoted, names=(), has_header=True, wanted=()
    )
    names = next(_split_fields(decoded_lines(path), dialect), [])
    if not names:
        raise DataError("expected the columns' names, found nothing", path=str(path), line=1)
    return tuple(names)


def require_columns(path: Path, found: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Check that every wanted name is there, once.

    Args:
        path: The file, for the error.
        found: The names in the file.
        wanted: The names of user, item and (where there is one) time.

    Raises:
        DataError: A name is absent, or is there more than once.
    """
    for name in wanted:
        if found.count(name) != 1:
            raise DataError(
                f"expected one column {name!r}, found {found.count(name)} among"
                f" {', '.join(map(repr, found))}: say which columns hold user, item and time",
                path=str(path),
                line=1,
            )


def _split_fields(lines: Iterator[str], dialect: Dialect) -> Iterator[list[str]]:
    if len(dialect.separator) > 1:
        yield from (line.rstrip("\r\n").split(dialect.separator) for line in lines)
    else:
        yield from csv.reader(
            lines,
            delimiter=dialect.separator,
            quoting=csv.QUOTE_MINIMAL if dialect.is_quoted else csv.QUOTE_NONE,
        )


def _parse(path: Path, dialect: Dialect) -> Any:
    source: Any = path
    separator = dialect.separator
    if len(separator) > 1:  # PyArrow takes one character: stand one in that no text file has
        content = path.read_bytes()
        if _UNIT_SEPARATOR.encode() in content:
            raise ValueError("the file contains the control character U+001F")
        source = io.BytesIO(content.replace(separator.encode(), _UNIT_SEPARATOR.encode()))
        separator = _UNIT_SEPARATOR
    return pyarrow.csv.read_csv(
        source,
        read_options=pyarrow.csv.ReadOptions(
            column_names=list(dialect.names), skip_rows=int(dialect.has_header)
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator,
            quote_char='"' if dialect.is_quoted else False,
            newlines_in_values=dialect.is_quoted,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(dialect.wanted, pa.string()),
            include_columns=list(dialect.wanted),
            strings_can_be_null=False,
        ),
    )


def _blame_line(path: Path, dialect: Dialect, cause: Exception) -> NoReturn:
    for line, fields in _numbered_records(path, dialect):
        reason = _fault(fields, dialect)
        if reason is not None:
            raise DataError(reason, path=str(path), line=line) from cause
    raise DataError(f"cannot be read as a table: {cause}", path=str(path)) from cause


def _numbered_records(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    n_lines = 0

    def counted() -> Iterator[str]:
        nonlocal n_lines
        for line in decoded_lines(path):
            n_lines += 1
            yield line

    start = 1
    records = _split_fields(counted(), dialect)
    try:
        for fields in records:
            if not (dialect.has_header and start == 1) and fields not in ([], [""]):
                yield start, fields
            start = n_lines + 1
    except csv.Error as error:
        raise DataError(f"cannot be taken apart: {error}", path=str(path), line=start) from error


def _fault(fields: list[str], dialect: Dialect) -> str | None:
    if len(fields) != len(dialect.names):
        return (
            f"expected {len(dialect.names)} fields separated by {dialect.separator!r}"
            f" ({', '.join(dialect.names)}), found {len(fields)}"
        )
    values = dict(zip(dialect.names, fields, strict=True))
    for name in dialect.wanted[:2]:
        if not values[name]:
            return f"expected an id in {name!r}, found nothing"
    if is_too_long(item_id := values[dialect.wanted[1]]):
        return f"expected an item id of at most {MAX_ITEM_ID_BYTES} bytes, found {item_id[:40]!r}…"
    for name in dialect.wanted[2:]:
        if not _NUMBER.fullmatch(values[name]) or not math.isfinite(float(values[name])):
            return f"expected a number in {name!r}, such as Unix seconds, found {values[name]!r}"
    return None
