# SPDX-License-Identifier: Apache-2.0
"""What must hold of a server's log after every fault."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["check_log", "read_log"]

_NATIVE = re.compile(r"^(WARNING: All log messages before absl|[IWEF]\d{4} [\d:.]+ +\d+ \S+\.cc:)")
# What a call that nobody thought of ends with.
_UNTHOUGHT = ("INTERNAL", "UNKNOWN")
# Says so when a storage that fails is waited for; the storage's error goes with it.
_EXPECTED = re.compile(
    r"(UNAVAILABLE: |until the store answers|stays as it is|has to wait|does not answer"
    r"|^Exception (terminating|closing) connection)"
)


def read_log(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """Return the lines of a log; what is no JSON, and not of gRPC's core, is a failure.

    Args:
        path: The log.
        start: The byte to begin at.
    """
    lines = []
    for line in path.read_bytes()[start:].decode().splitlines():
        if line.startswith("{"):
            lines.append(json.loads(line))
        else:
            assert _NATIVE.match(line), f"the server wrote past its log: {line}"
    return lines


def check_log(path: Path, *, start: int = 0, is_storage_faulty: bool = False) -> None:
    """Fail if the server met anything that it did not expect.

    Args:
        path: Its log.
        start: The byte to begin at.
        is_storage_faulty: Whether storage was made to fail: then tracebacks are allowed where
            the log says that storage failed, and nowhere else.
    """
    for line in read_log(path, start):
        assert line.get("status") not in _UNTHOUGHT, line
        if "exception" not in line:
            continue
        is_expected = is_storage_faulty and _EXPECTED.search(line["message"])
        assert is_expected, f"{line['message']}\n{line['exception']}"
