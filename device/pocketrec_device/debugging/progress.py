# SPDX-License-Identifier: Apache-2.0
"""How a long search says how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["SILENT", "Progress"]


class Progress(NamedTuple):
    """Told how far a long search is.

    Attributes:
        begin: Told what begins, and of how many steps it is.
        advance: Told how many more of them are done.
    """

    begin: Callable[[str, int], None]
    advance: Callable[[int], None]


SILENT = Progress(begin=lambda _text, _steps: None, advance=lambda _steps: None)
"""Nobody listens."""
