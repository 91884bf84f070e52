# SPDX-License-Identifier: Apache-2.0
"""Pushes: orders that hold until further notice, and the streams on which devices hear of them.

``orders`` says which order holds for whom, ``order_keeper`` keeps that fresh in a process,
``hub`` wakes the streams that are concerned, ``watch`` is one such stream.
"""

from __future__ import annotations

__all__: list[str] = []
