# SPDX-License-Identifier: Apache-2.0
"""How far a device has come with a server's orders, so that it misses none and repeats none."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WatchMark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchMark:
    """The newest order that was acted upon.

    Args:
        server: Whose orders are counted.
        subject: Whom the plan was for.
        bundle: Digest of the bundle that ran, in hex.
        sequence: Of the order.
    """

    server: str
    subject: str
    bundle: str
    sequence: int

    def sequence_for(self, server: str, subject: str, bundle: str) -> int:
        """Return what to tell a server that was acted upon; 0 = nothing that counts for it."""
        is_same = (server, subject, bundle) == (self.server, self.subject, self.bundle)
        return self.sequence if is_same else 0
