# SPDX-License-Identifier: Apache-2.0
"""Finds out which layer, operator or backend is to blame; ``pocketrec debug`` shows it."""

from __future__ import annotations
