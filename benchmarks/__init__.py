# SPDX-License-Identifier: Apache-2.0
"""Measurements whose results are committed, and the pages made from them."""
