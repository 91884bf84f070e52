# SPDX-License-Identifier: Apache-2.0
"""Plans: which one a subject should have, signed and counted up.

``drafting`` chooses planner, budget and codes, ``rules`` says who may decide otherwise,
``director`` signs; requests that meet are worked on together (``queue``).
"""

from __future__ import annotations

__all__: list[str] = []
