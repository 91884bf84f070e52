# SPDX-License-Identifier: Apache-2.0
"""The vocabulary every part of pocketrec shares: errors, signatures, the command line."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
