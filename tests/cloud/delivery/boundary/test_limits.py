# SPDX-License-Identifier: Apache-2.0
"""What cannot be configured."""

from __future__ import annotations

import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.boundary.limits import Limits


@pytest.mark.parametrize("size", [256 * 1024 - 1, 1024 * 1024 + 1])
def test_chunks_are_a_quarter_to_one_mebibyte(size: int) -> None:
    """A chunk outside the protocol's bounds cannot be configured."""
    with pytest.raises(ConfigError, match="chunk_bytes"):
        Limits(chunk_bytes=size)


def test_rates_are_positive() -> None:
    """A server nobody can register with is a mistake."""
    with pytest.raises(ConfigError, match="registrations_per_minute"):
        Limits(registrations_per_minute=0)
