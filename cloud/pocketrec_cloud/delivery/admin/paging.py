# SPDX-License-Identifier: Apache-2.0
"""How many entries an answer may have."""

from __future__ import annotations

from pocketrec.errors import RejectedError

__all__ = ["page_size_of"]

_DEFAULT_SIZE = 100
_MAX_SIZE = 1000


def page_size_of(requested: int) -> int:
    """Return the size of a page: what was asked for, or 100 for 0.

    Raises:
        RejectedError: More than 1,000 were asked for.
    """
    if requested > _MAX_SIZE:
        raise RejectedError(
            f"page_size: expected at most {_MAX_SIZE}, got {requested}", code="INVALID_ARGUMENT"
        )
    return requested or _DEFAULT_SIZE
