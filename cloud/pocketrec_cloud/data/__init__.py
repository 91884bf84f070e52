# SPDX-License-Identifier: Apache-2.0
"""Interactions: readers, the split, and a generated catalogue."""
