# SPDX-License-Identifier: Apache-2.0
"""Reads the sessions of real users that a benchmark replays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_quantization.cases import EvaluationCases

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["read_sessions"]

MAX_SESSIONS = 2000
_MIN_EVENTS = 2


def read_sessions(path: Path, item_ids: Sequence[str]) -> list[list[str]]:
    """Return sessions of two or more known items, oldest event first.

    Args:
        path: Evaluation cases, or text with a line per user: the user's name, then item ids,
            oldest first, with spaces between.
        item_ids: V ids of the bundle's items.

    Returns:
        The first ``MAX_SESSIONS`` of them.

    Raises:
        ConfigError: There are none.
        MalformedArtifactError: The file is neither.
        IncompatibleArtifactError: It holds cases of another catalogue.
    """
    data = path.read_bytes()
    lines = _of_text(data)
    found = _of_cases(data, item_ids, path) if lines is None else _known(lines, item_ids)
    if not found:
        raise ConfigError(
            f"{path}: expected sessions of {_MIN_EVENTS} or more items of the bundle, found none"
        )
    return found[:MAX_SESSIONS]


def _of_text(data: bytes) -> list[list[str]] | None:
    if b"\0" in data:
        return None
    try:
        return [line.split()[1:] for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        return None


def _known(lines: Sequence[Sequence[str]], item_ids: Sequence[str]) -> list[list[str]]:
    known = set(item_ids)
    sessions = [[item for item in line if item in known] for line in lines]
    return [events for events in sessions if len(events) >= _MIN_EVENTS]


def _of_cases(data: bytes, item_ids: Sequence[str], path: Path) -> list[list[str]]:
    cases = EvaluationCases.from_bytes(data)
    cases.check_catalogue(len(item_ids), path)
    return [
        [item_ids[i - 1] for i in (*cases.history(number), cases.targets[number])]
        for number in range(min(cases.n_cases, MAX_SESSIONS))
    ]
