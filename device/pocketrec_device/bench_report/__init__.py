# SPDX-License-Identifier: Apache-2.0
"""Turns results of ``bench run`` into one page that needs nothing else, and into Markdown.

    write_html(result, Path("report.html"))
    write_markdown(result, Path("report.md"))

``content`` reads results and profiles, ``bench_tables`` makes tables of them, the modules
named after charts draw; ``page`` and ``markdown`` put both together.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketrec_device.bench_report.writing import write_html, write_markdown

__all__ = ["write_html", "write_markdown"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pocketrec_device.bench_report.writing"), name)
