# SPDX-License-Identifier: Apache-2.0
"""Nested quantization, plans of 2 bits per channel, and the artifacts that carry them."""
