# SPDX-License-Identifier: Apache-2.0
"""Sequence models, one module each, that can be coded channel by channel."""
