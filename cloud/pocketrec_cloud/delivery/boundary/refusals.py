# SPDX-License-Identifier: Apache-2.0
"""Turns what a value check says of a caller's fields into a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pocketrec.errors import ConfigError, RejectedError

__all__ = ["blaming_the_caller"]


@contextmanager
def blaming_the_caller() -> Iterator[None]:
    """Make a ``ConfigError`` of the block the caller's mistake.

    Raises:
        RejectedError: The block raised ``ConfigError``; its text is the caller's to read.
    """
    try:
        yield
    except ConfigError as exc:
        raise RejectedError(str(exc), code="INVALID_ARGUMENT") from exc
