# SPDX-License-Identifier: Apache-2.0
"""Who a device is: it signs a challenge with its key, and gets a token for a while.

``challenges`` makes and checks what is signed, ``registration`` hands out tokens, ``sessions``
says whom a token stands for; ``service`` holds what the three work on.
"""

from __future__ import annotations

__all__: list[str] = []
