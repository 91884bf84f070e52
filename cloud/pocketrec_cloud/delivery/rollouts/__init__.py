# SPDX-License-Identifier: Apache-2.0
"""Rollouts: a bundle, or plan settings, for a growing share of devices, or taken back.

``buckets`` says which stage a device belongs to, ``engine`` when a rollout goes on or stops,
``line`` what the rollouts of one model line mean for one device; all three are functions from
values to values. ``assigner``, ``calls`` and ``judge`` bring them to the calls of devices and
to the store.
"""

from __future__ import annotations

__all__: list[str] = []
