# SPDX-License-Identifier: Apache-2.0
"""Interactions: readers, splits, and a generated catalogue."""
