# SPDX-License-Identifier: Apache-2.0
"""The admin service: what publishers and operators ask for, checked by role and written down.

``servicer`` is the gRPC side: it says which role may make which call and which handler answers it;
the handlers are functions from a request to a response, in one module per concern.
"""

from __future__ import annotations

__all__: list[str] = []
