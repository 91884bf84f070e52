# SPDX-License-Identifier: Apache-2.0
"""Trains planners, and makes plans in large numbers."""
