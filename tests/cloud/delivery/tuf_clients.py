# SPDX-License-Identifier: Apache-2.0
"""What a device's TUF client sees of a store."""

from __future__ import annotations

from pathlib import Path

from tuf.ngclient import Updater

__all__ = ["download"]


def download(client: Updater, path: str) -> bytes:
    """Return a target's verified content."""
    info = client.get_targetinfo(path)
    assert info is not None
    return Path(client.download_target(info)).read_bytes()
