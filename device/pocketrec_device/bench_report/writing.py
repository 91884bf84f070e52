# SPDX-License-Identifier: Apache-2.0
"""Writes reports, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pocketrec.files import write_atomically
from pocketrec_device.bench_report.content import Content
from pocketrec_device.bench_report.markdown import markdown_page
from pocketrec_device.bench_report.page import html_page

__all__ = ["write_html", "write_markdown"]


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
    write_atomically(path, html_page(Content.of([result], profiles)).encode())


def write_markdown(
    result: Mapping[str, Any], path: Path, profiles: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Write the tables of one result; arguments and errors as those of ``write_html``."""
    write_atomically(path, markdown_page(Content.of([result], profiles)).encode())
