# SPDX-License-Identifier: Apache-2.0
"""Checks that value objects and readers share.

Value objects raise ``ConfigError``: the caller is to blame. A reader builds the same
objects inside :func:`reading`, which turns that into ``MalformedArtifactError``: the
bytes are to blame, and the message says which field and where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, IncompatibleArtifactError, MalformedArtifactError
from pocketrec_quantization.limits import MAX_INTEGER, MAX_NAME_LENGTH

__all__ = ["check_integer", "check_major", "check_name", "check_text", "read_only", "reading"]

_Scalar = TypeVar("_Scalar", bound=np.generic)

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")
# Control characters, line and paragraph separators, and surrogates, which are no text at all.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_integer(
    value: object, *, field: str, minimum: int = 0, maximum: int = MAX_INTEGER
) -> None:
    """Refuse anything but a plain integer within ``minimum..maximum``.

    Raises:
        ConfigError: ``value`` is not an int, or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field}: expected an integer, got {_shortened(value)}")
    if not minimum <= value <= maximum:
        raise ConfigError(f"{field}: expected {minimum}..{maximum}, got {_shortened(value)}")


def check_name(value: object, *, field: str) -> None:
    """Refuse anything but 1..64 ASCII letters, digits, dots, underscores and hyphens.

    Raises:
        ConfigError: ``value`` is no such name.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigError(
            f"{field}: expected a letter or digit and up to {MAX_NAME_LENGTH - 1} more of "
            f"A-Z a-z 0-9 . _ -, got {_shortened(value)}"
        )


def check_text(value: object, *, field: str, maximum: int) -> None:
    """Refuse text of more than ``maximum`` code points, or with control characters.

    Raises:
        ConfigError: ``value`` is no such text.
    """
    if not isinstance(value, str) or len(value) > maximum or _UNFIT.search(value):
        raise ConfigError(
            f"{field}: expected at most {maximum} characters of one line, got {_shortened(value)}"
        )


def check_major(found: tuple[int, int], *known: tuple[int, int], what: str) -> None:
    """Refuse a format whose major version this release does not read.

    A minor version may be unknown: what it adds can be ignored.

    Args:
        found: Major and minor version of the artifact.
        *known: Major and minor versions this release reads, one for each major.
        what: The artifact, for the message.

    Raises:
        IncompatibleArtifactError: No major is the found one.
    """
    if found[0] not in {major for major, _ in known}:
        majors = " and ".join(f"{major}.x" for major, _ in known)
        raise IncompatibleArtifactError(
            f"{what} has format version {found[0]}.{found[1]}, this release reads {majors}; "
            "update whichever is older"
        )


@contextmanager
def reading(field: str, offset: int | None = None) -> Iterator[None]:
    """Blame the bytes, not the caller, for values that a value object refuses.

    Args:
        field: The field of ``docs/format.md`` that is being read.
        offset: Where it starts, in bytes, if known.

    Raises:
        MalformedArtifactError: The body raised ``ConfigError``.
    """
    try:
        yield
    except ConfigError as error:
        message = str(error).removeprefix(f"{field}: ")
        raise MalformedArtifactError(message, field=field, offset=offset) from error


def read_only(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return a view that refuses writes, for values that must not change any more."""
    view = array.view()
    view.flags.writeable = False
    return view


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
