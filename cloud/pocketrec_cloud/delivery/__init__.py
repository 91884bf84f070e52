# SPDX-License-Identifier: Apache-2.0
"""Delivery: publish signed bundles, sign personal plans, and bring both to devices.

``publishing`` writes and reads the repository, ``plans`` makes plans, ``push`` says what they
should be like and who hears of it, ``rollouts`` which bundle a device runs, ``identity`` who a
device is, ``admin`` what people may do, ``stores`` where it is remembered, ``operations`` what
an operator sees; ``boundary`` is what holds for every call, ``serving`` puts all of it behind
gRPC.
"""

from __future__ import annotations

__all__: list[str] = []
