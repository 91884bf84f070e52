# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of the server: metrics, logs, traces, health, and faults on purpose.

``observing`` tells observers about calls; ``metrics``, ``request_ids``, ``logs`` and
``tracing`` are such observers. ``health`` asks what the server depends on, ``endpoint`` serves
numbers and health over HTTP, and ``chaos`` harms answers to try devices out. ``config`` says
what of it is on, and ``operations`` puts it together for one server process.
"""

from __future__ import annotations

__all__: list[str] = []
