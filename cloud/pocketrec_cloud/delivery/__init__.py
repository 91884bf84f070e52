# SPDX-License-Identifier: Apache-2.0
"""Delivery: publish signed bundles, sign personal plans, and hand both to devices.

The write side is ``repository`` (TUF metadata over content-addressed files), the read
side ``publication``; ``director`` makes plans; ``handlers`` answer requests and know no
socket; ``servicer`` and ``server`` put them behind gRPC. Everything lies in one folder,
described in ``layout``.
"""

from __future__ import annotations

__all__: list[str] = []
