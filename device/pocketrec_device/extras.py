# SPDX-License-Identifier: Apache-2.0
"""Optional libraries: looked for before they are needed, and named by the command that helps."""

from __future__ import annotations

from importlib.util import find_spec

from pocketrec.errors import MissingExtraError

__all__ = ["require_libraries"]


def require_libraries(*names: str, purpose: str, extras: str) -> None:
    """Return quietly when every library could be imported; imports none of them.

    Args:
        *names: Top-level import names.
        purpose: What needs them, for the message.
        extras: What to put between the brackets of ``pip install 'pocketrec[...]'``.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise MissingExtraError(
                f"{purpose} needs the package {name!r}, which is not installed; "
                f"run `pip install 'pocketrec[{extras}]'`"
            )
