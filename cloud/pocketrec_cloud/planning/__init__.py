# SPDX-License-Identifier: Apache-2.0
"""Trains planners, makes plans in large numbers, and compares them with other ways."""
