# SPDX-License-Identifier: Apache-2.0
"""The server: what answers calls, and the processes around it.

``handlers`` know no socket, ``servicer`` puts them behind gRPC, ``composition`` puts their
parts together, ``server`` is one process of it and ``workers`` several.
"""

from __future__ import annotations

__all__: list[str] = []
