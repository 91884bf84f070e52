# SPDX-License-Identifier: Apache-2.0
"""What holds for every call, whichever package answers it.

``limits`` and ``rate_limit`` say how much a caller may do, ``refusals`` and ``translation`` turn
errors into what a caller sees, by ``error_catalogue``. Nothing here knows what is asked for.
"""

from __future__ import annotations

__all__: list[str] = []
