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

from pocketrec.errors import ConfigError, IncompatibleArtifactError, MalformedArtifactError
from pocketrec_quantization.limits import MAX_INTEGER, MAX_NAME_LENGTH

__all__ = ["check_integer", "check_major", "check_name", "check_text", "reading"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_integer(
    value: object, *, field: str, minimum: int = 0, maximum: int = MAX_INTEGER
) -> None:
    """Refuse anything but a plain integer within ``minimum..maximum``.

    Raises:
        ConfigError: ``value`` is not an int, or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field}: expected an integer, got {value!r}")
    if not minimum <= value <= maximum:
        raise ConfigError(f"{field}: expected {minimum}..{maximum}, got {value}")


def check_name(value: object, *, field: str) -> None:
    """Refuse anything but 1..64 letters, digits, dots, underscores and hyphens.

    Raises:
        ConfigError: ``value`` is no such name.
    """
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH or not _NAME.fullmatch(value):
        raise ConfigError(
            f"{field}: expected 1 to {MAX_NAME_LENGTH} of the characters A-Z a-z 0-9 . _ - "
            f"that start with a letter or digit, got {_shortened(value)}"
        )


def check_text(value: object, *, field: str, maximum: int) -> None:
    """Refuse text beyond ``maximum`` characters, or with control characters.

    Raises:
        ConfigError: ``value`` is no such text.
    """
    if not isinstance(value, str) or len(value) > maximum or not value.isprintable():
        raise ConfigError(
            f"{field}: expected at most {maximum} printable characters, got {_shortened(value)}"
        )


def check_major(found: tuple[int, int], known: tuple[int, int], *, what: str) -> None:
    """Refuse a format whose major version this release does not read.

    A minor version may be unknown: what it adds can be ignored.

    Args:
        found: Major and minor version of the artifact.
        known: Major and minor version this release writes.
        what: The artifact, for the message.

    Raises:
        IncompatibleArtifactError: The majors differ.
    """
    if found[0] != known[0]:
        raise IncompatibleArtifactError(
            f"{what} has format version {found[0]}.{found[1]}, but this release reads "
            f"{known[0]}.x; update the older side"
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
        raise MalformedArtifactError(str(error), field=field, offset=offset) from error


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 2 * MAX_NAME_LENGTH else f"{text[:MAX_NAME_LENGTH]}..."
