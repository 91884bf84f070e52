# SPDX-License-Identifier: Apache-2.0
"""Walks through a text file line by line: to count, and to find the line that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pocketrec.errors import DataError

__all__ = ["count_lines", "decoded_lines"]


def decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, each with its line break.

    A byte order mark at the start is left out.

    Args:
        path: The file.

    Raises:
        DataError: A line is not UTF-8.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"expected UTF-8, found the byte 0x{line[error.start]:02x}"
                    f" at column {error.start + 1}: convert the file to UTF-8",
                    path=str(path),
                    line=number,
                ) from error


def count_lines(path: Path) -> tuple[int, int]:
    """Return how many lines a file has, and how many of them are empty.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
    """
    n_lines = n_blank = 0
    with path.open("rb") as file:
        for line in file:
            n_lines += 1
            n_blank += line in (b"\n", b"\r\n")
    return n_lines, n_blank
