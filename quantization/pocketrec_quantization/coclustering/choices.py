# SPDX-License-Identifier: Apache-2.0
"""A choice among names, as callers give it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar

from pocketrec.errors import ConfigError

__all__ = ["read_choice"]

Choice = TypeVar("Choice", bound=StrEnum)


def read_choice(kind: type[Choice], value: Any, field: str) -> Choice:
    """Return a choice by its name.

    Args:
        kind: The choices there are.
        value: As a caller gave it.
        field: What the caller calls it.

    Raises:
        ConfigError: There is no such choice.
    """
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(kind)
        raise ConfigError(f"{field}: expected one of {known}, got {value!r}") from error
