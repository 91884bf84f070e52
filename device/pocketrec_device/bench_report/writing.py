# SPDX-License-Identifier: Apache-2.0
"""Makes and writes reports, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketrec.errors import ConfigError
from pocketrec.files import write_atomically
from pocketrec_device.bench.result import SCHEMA
from pocketrec_device.bench_report.content import Content, read_files
from pocketrec_device.bench_report.markdown import markdown_page
from pocketrec_device.bench_report.page import html_page

__all__ = ["html_bytes", "markdown_bytes", "read_content", "write_html", "write_markdown"]


def write_html(
    result: Mapping[str, Any], path: Path, profiles: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Write the page of one result.

    Args:
        result: What ``run_bench`` returned, or its file holds.
        path: Of the page.
        profiles: What files of ``debug profile`` hold.

    Raises:
        ConfigError: That is no result.
        OSError: The page cannot be written.
    """
    with _as_written_by_us():
        content = Content.of([result], profiles)
    write_atomically(path, html_bytes(content))


def write_markdown(
    result: Mapping[str, Any], path: Path, profiles: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Write the tables of one result; arguments and errors as those of ``write_html``."""
    with _as_written_by_us():
        content = Content.of([result], profiles)
    write_atomically(path, markdown_bytes(content))


def read_content(paths: Iterable[Path]) -> Content:
    """Read results and profiles; see ``content.read_files``.

    Raises:
        ConfigError: A file is neither, or there is no result among them.
        OSError: A file cannot be read.
    """
    with _as_written_by_us():
        return read_files(tuple(paths))


def html_bytes(content: Content) -> bytes:
    """Return the page of results.

    Raises:
        ConfigError: A result holds other things than ``bench run`` writes.
    """
    with _as_written_by_us():
        return html_page(content).encode()


def markdown_bytes(content: Content) -> bytes:
    """Return the tables of results.

    Raises:
        ConfigError: A result holds other things than ``bench run`` writes.
    """
    with _as_written_by_us():
        return markdown_page(content).encode()


@contextmanager
def _as_written_by_us() -> Iterator[None]:
    """Blame the file for what is of another type or shape than we write."""
    try:
        yield
    except ConfigError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected a file of {SCHEMA!r} as bench run writes it, found something else in "
            f"it: {error!r:.200}"
        ) from error
